// Enough of CUDA, in C++, to run tbps_infer/assets/scan/scan.cu on a CPU: one block at a time, its threads as fibres.
//
// A fibre runs until it waits for the others of its warp or its block. What CUDA leaves open is decided for the worse:
// mma takes subnormal numbers for zero and rounds every addition towards zero.

#include <cmath>
#include <csetjmp>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define TBPS_EMULATE
#define __device__
#define KERNEL static
#define __shared__ static  // blocks run one after the other
#define __launch_bounds__(...)

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct Index { unsigned x; };

static Index threadIdx, blockIdx, blockDim;

struct Fibre {
    ucontext_t context;  // only to begin: swapcontext calls the system each time, _longjmp does not
    jmp_buf place;
    bool begun;
    std::vector<char> stack = std::vector<char>(1 << 16);
    bool done;
};

struct Barrier {
    unsigned waiting, round;
};

static std::vector<Fibre> fibres;
static jmp_buf scheduler;
static Barrier block_barrier;
static Barrier warp_barriers[32];
static void (*body)(const void*);
static const void* argument;

static void wait(Barrier& barrier, unsigned members)
{
    const unsigned round = barrier.round;
    if (++barrier.waiting == members) {
        barrier.waiting = 0;
        ++barrier.round;
    }
    while (barrier.round == round) {
        if (!_setjmp(fibres[threadIdx.x].place)) _longjmp(scheduler, 1);
    }
}

static void run_fibre()
{
    body(argument);
    fibres[threadIdx.x].done = true;
    _longjmp(scheduler, 1);
}

__attribute__((noinline)) static void resume(Fibre& fibre)
{
    if (_setjmp(scheduler)) return;
    if (fibre.begun) _longjmp(fibre.place, 1);
    fibre.begun = true;
    setcontext(&fibre.context);
}

static void run_block()
{
    block_barrier = {};
    for (Barrier& barrier : warp_barriers) barrier = {};
    for (unsigned i = 0; i < blockDim.x; ++i) {
        Fibre& fibre = fibres[i];
        fibre.begun = fibre.done = false;
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.data();
        fibre.context.uc_stack.ss_size = fibre.stack.size();
        fibre.context.uc_link = nullptr;
        makecontext(&fibre.context, run_fibre, 0);
    }
    for (bool left = true; left;) {
        left = false;
        for (unsigned i = 0; i < blockDim.x; ++i) {
            if (fibres[i].done) continue;
            threadIdx.x = i;
            resume(fibres[i]);
            left |= !fibres[i].done;
        }
    }
}

static void run_grid(void (*kernel)(const void*), unsigned grid, unsigned block, const void* of)
{
    if (fibres.size() < block) fibres = std::vector<Fibre>(block);
    body = kernel;
    argument = of;
    blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x) run_block();
}

static void __syncthreads() { wait(block_barrier, blockDim.x); }

// What each lane of a warp tells the others; two turns, so that no lane overwrites what another has yet to read.
template <typename T>
static const T* exchange(const T& mine)
{
    static T told[32][2][32];
    static unsigned turns[32 * 32];
    const unsigned me = threadIdx.x, warp = me / 32;
    const unsigned turn = turns[me]++ % 2;
    told[warp][turn][me % 32] = mine;
    wait(warp_barriers[warp], 32);
    return told[warp][turn];
}

static unsigned __match_any_sync(unsigned, unsigned value)
{
    const unsigned* values = exchange(value);
    unsigned same = 0;
    for (unsigned lane = 0; lane < 32; ++lane) same |= static_cast<unsigned>(values[lane] == value) << lane;
    return same;
}

static unsigned atomicAdd(unsigned* at, unsigned more)
{
    const unsigned before = *at;
    *at += more;
    return before;
}

static unsigned atomicMin(unsigned* at, unsigned other)
{
    const unsigned before = *at;
    if (other < before) *at = other;
    return before;
}

static int __ffs(unsigned value) { return __builtin_ffs(static_cast<int>(value)); }
static int __popc(unsigned value) { return __builtin_popcount(value); }
static unsigned __float_as_uint(float value) { unsigned bits; std::memcpy(&bits, &value, 4); return bits; }
static float __uint_as_float(unsigned bits) { float value; std::memcpy(&value, &bits, 4); return value; }

static unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    const unsigned long long bytes = static_cast<unsigned long long>(y) << 32 | x;
    unsigned result = 0;
    for (unsigned i = 0; i < 4; ++i)
        result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return result;
}

static float float_of(unsigned short half)
{
    const unsigned exponent = half >> 10 & 31, fraction = half & 1023, sign = (half & 0x8000u) << 16;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000 | fraction << 13);
    const float magnitude = std::ldexp(exponent ? 1024.0f + fraction : fraction, (exponent ? exponent : 1) - 25);
    return sign ? -magnitude : magnitude;
}

static unsigned short half_of(float value)
{
    const unsigned short sign = __float_as_uint(value) >> 16 & 0x8000;
    const float magnitude = std::fabs(value);
    if (std::isnan(value)) return sign | 0x7e00;
    if (magnitude >= 65520) return sign | 0x7c00;
    if (magnitude < 0x1p-14f) return sign | static_cast<unsigned short>(std::nearbyint(magnitude * 0x1p24f));
    int exponent;
    const float fraction = std::frexp(magnitude, &exponent);  // in [1/2, 1)
    // A fraction that rounds up to 1 carries into the exponent, as it should.
    return sign | static_cast<unsigned short>((exponent + 13 << 10) + std::nearbyint(fraction * 2048));
}

static float first_of(unsigned pair) { return float_of(pair & 0xffff); }
static float second_of(unsigned pair) { return float_of(pair >> 16); }
static unsigned pair_of(float first, float second) { return half_of(first) | static_cast<unsigned>(half_of(second)) << 16; }

static unsigned multiplied(unsigned left, unsigned right)
{
    return pair_of(first_of(left) * first_of(right), second_of(left) * second_of(right));
}

static unsigned subtracted(unsigned left, unsigned right)
{
    return pair_of(first_of(left) - first_of(right), second_of(left) - second_of(right));
}

static uint4 load_once(const uint4* from) { return *from; }

static float operand(unsigned pair, unsigned second)
{
    static const std::vector<float> values = [] {
        std::vector<float> all(1 << 16);
        for (unsigned i = 0; i < all.size(); ++i) {
            const float value = float_of(static_cast<unsigned short>(i));
            all[i] = std::fabs(value) < 0x1p-14f ? 0.0f : value;
        }
        return all;
    }();
    return values[second ? pair >> 16 : pair & 0xffff];
}

static float towards_zero(double exact)
{
    const float rounded = static_cast<float>(exact);
    const bool too_far = std::fabs(static_cast<double>(rounded)) > std::fabs(exact);
    return too_far ? __uint_as_float(__float_as_uint(rounded) - 1) : rounded;  // infinity stays: it is no further
}

struct Operands {
    float rows[4][2], queries[2][2];
};

// m16n8k16: of the rows a lane (g, t) has, by register, row g or g + 8 and columns 2t or 2t + 8 and the next.
static void multiply_add(float (&sums)[4], const unsigned (&rows)[4], uint2 queries)
{
    Operands mine;
    for (unsigned j = 0; j < 2; ++j) {
        for (unsigned i = 0; i < 4; ++i) mine.rows[i][j] = operand(rows[i], j);
        mine.queries[0][j] = operand(queries.x, j);
        mine.queries[1][j] = operand(queries.y, j);
    }
    const Operands* lanes = exchange(mine);
    const unsigned g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned query = 2 * t + i % 2;
        for (unsigned column = 0; column < 16; ++column) {
            const unsigned from = column % 8 / 2, high = column / 8;
            const double row = lanes[4 * g + from].rows[i / 2 + 2 * high][column % 2];
            sums[i] = towards_zero(sums[i] + row * lanes[4 * query + from].queries[high][column % 2]);
        }
    }
}
