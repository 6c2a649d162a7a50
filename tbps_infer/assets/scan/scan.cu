// The search on a GPU: products of stored rows with up to 64 queries, and which rows can be among the best.
//
// Compiled where it runs, by NVRTC, without any header, behind a line `#define STORED_...` that names the type of a
// stored number and a line `#define GROUPS n`, n = 1, 4 or 8, for up to 8 n queries at once. What goes in and comes out
// is in tbps_infer/gallery/search/kernel.py. Tests compile the same text as C++ (tests/helpers/emulated_gpu.h), with
// their own versions of what is between TBPS_EMULATE and #endif.
//
// A product only selects, with an error that tbps_infer/gallery/search/kernel_queries.py bounds from two facts: a
// product of two float16 numbers is exact in float32, and mma adds them with at least float32's precision, in any
// order and rounding (PTX ISA, mma). How mma treats subnormal numbers is not specified, so none is handed to it that
// matters: stored numbers are multiplied by a power of two first, which is exact.

#if defined(STORED_float16)
constexpr int STEPS = 2;  // multiplications of 16 columns per 64 bytes of a row
constexpr int PARTS = 1;  // float16 numbers that stand for one stored number
#elif defined(STORED_int8)
constexpr int STEPS = 4;
constexpr int PARTS = 1;
#else  // STORED_float32
constexpr int STEPS = 1;
constexpr int PARTS = 2;
#endif

// Blocks that hide the memory's latency: each of their warps has 2 KiB on the way. More would spill registers.
#if defined(STORED_float16) && __CUDA_ARCH__ >= 800 && __CUDA_ARCH__ < 1200
constexpr int LEAST_BLOCKS = GROUPS == 1 ? 6 : 4;
#else
constexpr int LEAST_BLOCKS = GROUPS == 1 ? 6 : GROUPS == 4 ? 4 : 3;
#endif

typedef unsigned long long Entry;  // an ordered score in the upper half, a row in the lower

struct Scan {
    const uint4* rows;      // from row `offset` on, in tiles of 32 rows: the first 64 bytes of each, the next 64, ...
    const float* scales;    // of the same rows for int8, else null
    const unsigned* wanted; // a bit per row of the file; null for all
    const uint2* queries;   // float16 [chunks][STEPS][query / 8][lane][4], see multiply()
    const float* factors;   // per query: from the product of what is multiplied to the score
    const float* ceilings;  // per query: a score further from 0 means damage
    const float* limits;    // per query: smaller scores are of no interest
    unsigned* counts;       // per query: the rows found, also those for which there was no room
    Entry* entries;         // [query][capacity]
    unsigned* damaged;      // the first damaged row that was seen
    unsigned offset;        // a multiple of 32
    unsigned first, stop;   // the rows of the file to look at
    unsigned chunks;        // of 64 bytes in a row
    unsigned capacity;
    unsigned stride;        // look at every stride-th tile of 32 rows
    unsigned tiles_per_warp;
    float power;            // a power of two for stored numbers
};

struct Select {
    const Entry* entries;   // [query][capacity]
    unsigned* counts;       // per query, as Scan leaves them
    float* limits;          // per query, raised here
    const float* margins;   // per query: how far below the k-th best score a row is still of interest
    Entry* found;           // [query][room]: those of interest, in any order
    uint4* told;            // per query: rows counted, rows of interest, the first damaged row
    const unsigned* damaged;
    unsigned k, capacity;
    unsigned room;          // 0: only raise the limits
    unsigned reset;         // whether to begin to count anew
};

#ifndef TBPS_EMULATE
#define KERNEL extern "C" __global__

// 16 bytes that are read once: they need no place in the first cache, which the queries need.
__device__ inline uint4 load_once(const uint4* from)
{
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(from));
    return v;
}

// sums[16 x 8] += rows[16 x 16] queries[16 x 8], each spread over a warp.
__device__ inline void multiply_add(float (&sums)[4], const unsigned (&rows)[4], uint2 queries)
{
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(rows[0]), "r"(rows[1]), "r"(rows[2]), "r"(rows[3]), "r"(queries.x), "r"(queries.y));
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(rows[0]), "r"(rows[1]), "r"(queries.x));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(rows[2]), "r"(rows[3]), "r"(queries.y));
#endif
}

__device__ inline unsigned short half_of(float value)
{
    unsigned short half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
}

__device__ inline float float_of(unsigned short half)
{
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}

__device__ inline unsigned multiplied(unsigned left, unsigned right)  // two float16 numbers each
{
    unsigned product;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(left), "r"(right));
    return product;
}

__device__ inline unsigned subtracted(unsigned left, unsigned right)
{
    unsigned difference;
    asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(difference) : "r"(left), "r"(right));
    return difference;
}
#endif

__device__ inline unsigned both(unsigned short first, unsigned short second)
{
    return first | static_cast<unsigned>(second) << 16;
}

// What one step multiplies of 16 bytes of a row: four columns as pairs of float16 numbers.
__device__ inline void unpack(uint4 from, int step, float power, unsigned (&pairs)[PARTS][2])
{
#if defined(STORED_float16)
    const unsigned powers = both(half_of(power), half_of(power));
    pairs[0][0] = multiplied(step == 0 ? from.x : from.z, powers);
    pairs[0][1] = multiplied(step == 0 ? from.y : from.w, powers);
#elif defined(STORED_int8)
    // A byte b with its sign turned over is 128 + b; behind 0x64 it is the float16 number 1024 + 128 + b.
    const unsigned word = step == 0 ? from.x : step == 1 ? from.y : step == 2 ? from.z : from.w;
    const unsigned bytes = word ^ 0x80808080u;
    pairs[0][0] = subtracted(__byte_perm(bytes, 0x64646464u, 0x4140), 0x64806480u);
    pairs[0][1] = subtracted(__byte_perm(bytes, 0x64646464u, 0x4342), 0x64806480u);
#else
    const unsigned words[4] = {from.x, from.y, from.z, from.w};
    unsigned short high[4], low[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float value = power * __uint_as_float(words[i]);
        high[i] = half_of(value);
        low[i] = half_of(value - float_of(high[i]));
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        pairs[0][i] = both(high[2 * i], high[2 * i + 1]);
        pairs[1][i] = both(low[2 * i], low[2 * i + 1]);
    }
#endif
}

// A lane's share of 64 bytes of 32 rows, which lie together.
__device__ inline void load_chunk(const uint4* rows, uint4 (&to)[4])
{
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = load_once(rows + 32 * i);
}

__device__ inline void multiply_chunk(
    const Scan& scan, const uint4 (&now)[4], const uint2* queries, float (&sums)[2][GROUPS][4])
{
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
        unsigned pairs[4][PARTS][2];
#pragma unroll
        for (int i = 0; i < 4; ++i) unpack(now[i], step, scan.power, pairs[i]);
#pragma unroll
        for (int group = 0; group < GROUPS; ++group, queries += 32) {
            const uint2 some = *queries;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
#pragma unroll
                for (int part = 0; part < PARTS; ++part) {
                    const unsigned(&upper)[2] = pairs[2 * half][part];
                    const unsigned(&lower)[2] = pairs[2 * half + 1][part];
                    const unsigned these[4] = {upper[0], lower[0], upper[1], lower[1]};
                    multiply_add(sums[half][group], these, some);
                }
            }
        }
    }
}

// Products of 32 rows with 8 * GROUPS queries. A warp's lanes are 8 x 4: lane (g, t) reads 16 bytes at a time, the
// t-th of 64, of the rows g, g + 8, g + 16 and g + 24. The columns that mma calls 2t, 2t + 1, 2t + 8 and 2t + 9 are
// then four that lie together in a row: any order of columns gives the same sum if the queries come in the same one.
// The next 64 bytes are asked for before these are multiplied.
__device__ inline void multiply(const Scan& scan, unsigned tile, unsigned lane, float (&sums)[2][GROUPS][4])
{
    const uint4* rows = scan.rows + 128ull * scan.chunks * (tile - scan.offset / 32) + lane;
    const uint2* queries = scan.queries + lane;
    uint4 now[4], next[4];
    load_chunk(rows, next);
    for (unsigned chunk = 1; chunk <= scan.chunks; ++chunk) {
#pragma unroll
        for (int i = 0; i < 4; ++i) now[i] = next[i];
        if (chunk < scan.chunks) load_chunk(rows + 128 * chunk, next);
        multiply_chunk(scan, now, queries, sums);
        queries += 32 * STEPS * GROUPS;
    }
}

// Larger for a larger score, as an integer.
__device__ inline unsigned ordered(float score)
{
    const unsigned bits = __float_as_uint(score);
    return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

__device__ inline float unordered(unsigned key)
{
    return __uint_as_float(key ^ (key >> 31 ? 0x80000000u : 0xffffffffu));
}

// One score out of thousands goes on from the comparison.
__device__ inline void consider(const Scan& scan, unsigned query, unsigned row, float score, float limit)
{
    if (score < limit) return;
    if (!(fabsf(score) <= scan.ceilings[query])) {  // NaN too
        atomicMin(scan.damaged, row);
        return;
    }
    const unsigned place = atomicAdd(scan.counts + query, 1u);
    if (place < scan.capacity) {
        scan.entries[static_cast<unsigned long long>(query) * scan.capacity + place] =
            static_cast<Entry>(ordered(score)) << 32 | row;
    }
}

__device__ inline unsigned wanted_rows(const Scan& scan, unsigned tile)
{
    unsigned rows = scan.wanted ? scan.wanted[tile] : 0xffffffffu;
    const unsigned start = 32 * tile;
    if (start < scan.first) rows &= 0xffffffffu << (scan.first - start);
    if (scan.stop - start < 32) rows &= ~(0xffffffffu << (scan.stop - start));
    return rows;
}

__device__ inline void scan_tiles(const Scan& scan)
{
    const unsigned lane = threadIdx.x % 32;
    const unsigned warp = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    for (unsigned i = 0; i < scan.tiles_per_warp; ++i) {
        const unsigned long long tile =
            scan.first / 32 + static_cast<unsigned long long>(warp * scan.tiles_per_warp + i) * scan.stride;
        if (32 * tile >= scan.stop) return;
        const unsigned wanted = wanted_rows(scan, tile);
        if (!wanted) continue;
        float sums[2][GROUPS][4] = {};
        multiply(scan, tile, lane, sums);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const unsigned inside = lane / 4 + 8 * i;
            if (!(wanted >> inside & 1)) continue;
            const unsigned row = 32 * static_cast<unsigned>(tile) + inside;
#if defined(STORED_int8)
            const float scale = scan.scales[row - scan.offset];
#else
            const float scale = 1.0f;
#endif
#pragma unroll
            for (int group = 0; group < GROUPS; ++group) {
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    const unsigned query = 8 * group + 2 * (lane % 4) + j;
                    const float score = sums[i / 2][group][2 * (i % 2) + j] * scan.factors[query] * scale;
                    consider(scan, query, row, score, scan.limits[query]);
                }
            }
        }
    }
}

KERNEL void __launch_bounds__(128, LEAST_BLOCKS) scan(const Scan arguments)
{
    scan_tiles(arguments);
}

// The k-th largest of some ordered scores, a byte at a time from the top; the block has 256 threads or more.
__device__ inline unsigned kth_largest(const Entry* entries, unsigned count, unsigned k)
{
    __shared__ unsigned bins[256];
    __shared__ unsigned chosen, above;
    unsigned prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        if (threadIdx.x < 256) bins[threadIdx.x] = 0;
        __syncthreads();
        for (unsigned start = 0; start < count; start += blockDim.x) {
            const unsigned i = start + threadIdx.x;
            const unsigned key = i < count ? static_cast<unsigned>(entries[i] >> 32) : 0;
            const bool counts = i < count && (shift == 24 || key >> (shift + 8) == prefix);
            const unsigned bin = key >> shift & 255;
            // Most scores share their first byte: one addition for all lanes that have it.
            const unsigned same = __match_any_sync(0xffffffffu, counts ? bin : 256u);
            if (counts && __ffs(same) - 1 == static_cast<int>(threadIdx.x % 32)) atomicAdd(bins + bin, __popc(same));
        }
        __syncthreads();
        for (unsigned step = 1; step < 256; step *= 2) {  // bins[b] becomes the number in b and above
            const unsigned more = threadIdx.x + step < 256 ? bins[threadIdx.x + step] : 0;
            __syncthreads();
            if (threadIdx.x < 256) bins[threadIdx.x] += more;
            __syncthreads();
        }
        const unsigned higher = threadIdx.x < 255 ? bins[threadIdx.x + 1] : 0;
        if (threadIdx.x < 256 && bins[threadIdx.x] >= k && higher < k) {
            chosen = threadIdx.x;
            above = higher;
        }
        __syncthreads();
        prefix = prefix << 8 | chosen;
        k -= above;
        __syncthreads();
    }
    return prefix;
}

// One block per query. k of the rows found score the k-th score or more, so a row that scores less than it by more
// than the margin is not among the k best of all, whichever rows were looked at so far.
KERNEL void __launch_bounds__(512) select_best(const Select select)
{
    __shared__ unsigned interesting;
    const unsigned query = blockIdx.x;
    const unsigned counted = select.counts[query];
    const unsigned count = counted < select.capacity ? counted : select.capacity;
    const Entry* entries = select.entries + static_cast<unsigned long long>(query) * select.capacity;
    float limit = select.limits[query];
    if (threadIdx.x == 0) interesting = 0;
    __syncthreads();
    if (count >= select.k) {
        const unsigned kth = kth_largest(entries, count, select.k);
        // One step down, because the subtraction rounds.
        limit = fmaxf(limit, unordered(ordered(unordered(kth) - select.margins[query]) - 1));
    }
    if (select.room) {
        for (unsigned i = threadIdx.x; i < count; i += blockDim.x) {
            if (unordered(static_cast<unsigned>(entries[i] >> 32)) < limit) continue;
            const unsigned place = atomicAdd(&interesting, 1u);
            if (place < select.room)
                select.found[static_cast<unsigned long long>(query) * select.room + place] = entries[i];
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        select.limits[query] = limit;
        select.told[query] = {counted, interesting, *select.damaged, 0};
        if (select.reset) select.counts[query] = 0;
    }
}
