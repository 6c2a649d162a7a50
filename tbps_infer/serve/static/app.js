// The search page. Whatever comes from the server is put in as text, never as markup.

const $ = (id) => document.getElementById(id);

const EXAMPLES = [
  "a woman in a red coat with a grey backpack",
  "a man in a white shirt and black trousers",
  "a woman with long dark hair wearing a blue dress",
  "a man with a cap, a green jacket and white shoes",
];
const HISTORY = "tbps-history";
const MOST_REMEMBERED = 20;
const MOST_RECENT = 6;

const state = {
  about: null, // what /columns said
  asked: null, // the last search, as it was sent
  hits: [],
  chosen: new Set(),
  focus: 0,
  open: null, // the hit in the detail view
  examples: [], // {like: record} or {picture: base64, name, url}
  cameras: new Set(),
  running: null,
};

function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// --- the API ---------------------------------------------------------------

class Failure extends Error {
  constructor(message, hint) {
    super(message);
    this.hint = hint || "";
  }
}

async function call(path, body, signal) {
  const options = body === undefined ? { signal } : {
    method: "POST", signal, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer.", "Is it still running?");
  }
  if (answer.status === 401) location.assign("/login");
  if (answer.ok) return answer;
  let told = {};
  try {
    told = (await answer.json()).error;
  } catch { /* not ours: only its status is known */ }
  const wait = answer.headers.get("Retry-After");
  const hint = wait ? `Wait ${wait} s and try again.` : told.hint;
  throw new Failure(told.message || `The server answered ${answer.status}.`, hint);
}

const thumbnail = (record) => `/api/v1/records/${record}/thumbnail`;

// --- the query -------------------------------------------------------------

function query() {
  const text = $("sentence").value.trim();
  const exclude = $("exclude").value.trim();
  return {
    texts: text ? [text] : [],
    pictures: state.examples.filter((each) => each.picture).map((each) => each.picture),
    like: state.examples.filter((each) => each.like !== undefined).map((each) => each.like),
    exclude: exclude ? [exclude] : [],
    image_weight: Number($("image-weight").value),
    k: Number($("k").value),
    per_id: $("per-id").checked,
    filter: {
      camera: [...state.cameras],
      after: $("after").value || null,
      before: $("before").value || null,
      where: $("where").value.trim() || null,
    },
  };
}

function filtersUsed() {
  return state.cameras.size + ["after", "before", "where"].filter((id) => $(id).value.trim()).length;
}

async function search({ remember = true } = {}) {
  const asked = query();
  if (!asked.texts.length && !asked.pictures.length && !asked.like.length) {
    showStart();
    $("status").textContent = asked.exclude.length ? "Describe the person as well." : "";
    return;
  }
  state.running?.abort();
  const mine = (state.running = new AbortController());
  const started = performance.now();
  $("busy").hidden = false;
  $("hits").classList.add("old");
  try {
    const found = await (await call("/api/v1/search", asked, mine.signal)).json();
    state.asked = asked;
    state.hits = found.hits;
    state.chosen.clear();
    state.focus = 0;
    if (remember) {
      asked.texts.forEach(rememberSentence);
      keepInHistory();
    }
    showHits(found, performance.now() - started);
  } catch (error) {
    if (error.name === "AbortError") return;
    showFailure(error);
  } finally {
    if (state.running === mine) {
      $("busy").hidden = true;
      $("hits").classList.remove("old");
    }
  }
}

// Back and forward: what was typed and chosen, with the pictures in memory.
function keepInHistory() {
  const fields = Object.fromEntries(["sentence", "exclude", "after", "before", "where", "k", "image-weight"].map((id) => [id, $(id).value]));
  const kept = { fields, perId: $("per-id").checked, cameras: [...state.cameras], examples: state.examples };
  const known = JSON.stringify(history.state?.fields) === JSON.stringify(fields) && history.state?.key === key(kept);
  if (!known) history.pushState({ ...kept, key: key(kept) }, "");
}

function key(kept) {
  return JSON.stringify([kept.perId, kept.cameras, kept.examples.map((each) => each.like ?? each.name)]);
}

function restore(kept) {
  const fields = kept?.fields ?? { sentence: "", exclude: "", after: "", before: "", where: "", k: "24", "image-weight": "0.5" };
  for (const [id, value] of Object.entries(fields)) $(id).value = value;
  $("per-id").checked = kept?.perId ?? false;
  state.cameras = new Set(kept?.cameras ?? []);
  state.examples = kept?.examples ?? [];
  showExamples();
  showCameras();
  search({ remember: false });
}

// --- what is remembered ----------------------------------------------------

function remembered() {
  try {
    const list = JSON.parse(localStorage.getItem(HISTORY) ?? "[]");
    return Array.isArray(list) ? list.filter((each) => typeof each === "string") : [];
  } catch {
    return [];
  }
}

function rememberSentence(text) {
  const list = [text, ...remembered().filter((each) => each !== text)].slice(0, MOST_REMEMBERED);
  try {
    localStorage.setItem(HISTORY, JSON.stringify(list));
  } catch { /* a private window may have no storage */ }
  showRemembered();
}

function showRemembered() {
  const list = remembered();
  $("history").replaceChildren(...list.map((text) => Object.assign(make("option"), { value: text })));
  $("recent").replaceChildren(...list.slice(0, MOST_RECENT).map(sentenceChip));
  $("recent-part").hidden = !list.length;
}

function sentenceChip(text) {
  const chip = make("button", "", text);
  chip.type = "button";
  chip.addEventListener("click", () => {
    $("sentence").value = text;
    search().then(focusHit);
  });
  return chip;
}

// --- example pictures ------------------------------------------------------

function showExamples() {
  $("examples").replaceChildren(...state.examples.map((each, index) => {
    const chip = make("span", "example");
    const picture = make("img");
    picture.alt = "";
    picture.src = each.url;
    const name = each.like === undefined ? each.name : `like record ${each.like}`;
    const remove = make("button", "", "✕");
    remove.type = "button";
    remove.setAttribute("aria-label", `Remove ${name}`);
    remove.addEventListener("click", () => {
      state.examples.splice(index, 1);
      showExamples();
      search();
      $("sentence").focus();
    });
    chip.append(picture, make("span", "", name), remove);
    return chip;
  }));
  showWeights();
}

function showWeights() {
  $("weights").hidden = !state.examples.length || !$("sentence").value.trim();
}

function moreLike(hit) {
  if (!hit) return;
  closeDialogs();
  state.examples = [{ like: hit.record, url: thumbnail(hit.record) }];
  $("sentence").value = "";
  showExamples();
  search().then(focusHit);
  scrollTo({ top: 0 });
}

async function addPicture(file) {
  if (!file) return;
  const most = (state.about?.limits.body_bytes ?? 8 << 20) * 0.7;
  if (!file.type.startsWith("image/") || file.size > most) {
    const reason = file.size > most ? `is larger than ${Math.round(most / 2 ** 20)} MB` : "is not a picture";
    showFailure(new Failure(`${file.name} ${reason}.`, "Choose a crop of one person."));
    return;
  }
  const data = await new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
  const picture = { picture: data.slice(data.indexOf(",") + 1), name: file.name || "picture", url: URL.createObjectURL(file) };
  const most_pictures = state.about?.limits.pictures ?? 4;
  state.examples = [...state.examples, picture].slice(-most_pictures);
  showExamples();
  search();
}

// --- hits ------------------------------------------------------------------

function only(shown) {
  for (const id of ["start", "empty", "failure"]) $(id).hidden = id !== shown;
  $("warnings").replaceChildren();
  if (shown) {
    $("hits").replaceChildren();
    state.hits = [];
    state.chosen.clear();
  }
  showChosen();
}

// In a narrow window the fields can fill it: bring what was found into sight.
function showBelow(id) {
  requestAnimationFrame(() => $(id).scrollIntoView({ block: "nearest" }));
}

function showStart() {
  only("start");
  $("status").textContent = "";
}

function showFailure(error) {
  only("failure");
  $("status").textContent = "";
  showBelow("failure");
  const [title, hint] = [$("failure").querySelector("h2"), $("failure").querySelector("p")];
  title.textContent = error.message;
  hint.textContent = error.hint ?? "";
}

function showHits(found, milliseconds) {
  showTotal(found.total);
  showWeights();
  only(found.hits.length ? null : "empty");
  $("empty-clear").hidden = !filtersUsed();
  $("warnings").replaceChildren(...found.warnings.map((text) => make("li", "warning", text)));
  showBelow(found.hits.length ? "status" : "empty");
  const among = found.searched === found.total ? number(found.total) : `${number(found.searched)} that pass the filters`;
  $("status").textContent = found.hits.length
    ? `The ${number(found.hits.length)} best of ${among}, in ${Math.max(1, Math.round(milliseconds))} ms`
    : "";
  $("hits").replaceChildren(...found.hits.map(card));
  $("hits").scrollTop = 0;
}

const number = (value) => value.toLocaleString("en");

function wholeWeight() {
  return state.about?.segments.reduce((sum, each) => sum + each.weight, 0) || 1;
}

function bar(share) {
  const outer = make("div", "bar");
  const inner = make("i");
  inner.style.width = `${(100 * Math.min(1, Math.max(0, share))).toFixed(1)}%`;
  outer.append(inner);
  return outer;
}

function card(hit, index) {
  const item = make("li", "hit");
  const about = [hit.metadata.camera, shortTime(hit.metadata.time)].filter((each) => each !== undefined && each !== null).map(String);
  item.id = `hit-${index}`;
  item.setAttribute("role", "option");
  item.setAttribute("aria-selected", "false");
  item.setAttribute("aria-label", [`Rank ${hit.rank}, score ${hit.score.toFixed(3)}`, ...about, hit.name].join(", "));
  item.tabIndex = index === state.focus ? 0 : -1;
  item.title = [hit.name, ...Object.entries(hit.metadata).map(([name, value]) => `${name}: ${value}`)].join("\n");
  const shot = make("div", "shot");
  const picture = make("img");
  picture.alt = "";
  picture.decoding = "async";
  picture.loading = index < 12 ? "eager" : "lazy";
  picture.addEventListener("error", () => picture.replaceWith(make("div", "gone", "picture not there any more")));
  picture.src = thumbnail(hit.record);
  const tick = make("span", "tick", "✓");
  tick.setAttribute("aria-hidden", "true");
  shot.append(picture, tick);
  const caption = make("div", "caption");
  caption.append(make("b", "", String(hit.rank)), make("span", "", hit.score.toFixed(3)));
  item.append(shot, caption, bar(hit.score / wholeWeight()), ...about.map((text) => make("div", "meta", text)));
  item.addEventListener("click", (event) => {
    setFocus(index);
    if (event.target === tick || event.ctrlKey || event.metaKey) choose(hit);
    else if (event.shiftKey) chooseTo(index);
    else openDetail(index);
  });
  return item;
}

// "2024-06-11T06:59:00+02:00" to the minute, with its zone, as people write it; any other form as it is.
function shortTime(time) {
  const found = /^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(?::\d\d(?:[.,]\d+)?)? ?(Z|[+-]\d\d:?\d\d)?$/.exec(time);
  return found ? [found[1], found[2], found[3] === "Z" ? "UTC" : found[3]].filter(Boolean).join(" ") : time;
}

function setFocus(index, { scroll = false } = {}) {
  const cards = $("hits").children;
  if (!cards.length) return;
  cards[state.focus]?.setAttribute("tabindex", "-1");
  state.focus = Math.min(Math.max(index, 0), cards.length - 1);
  cards[state.focus].tabIndex = 0;
  cards[state.focus].focus({ preventScroll: true });
  if (scroll) cards[state.focus].scrollIntoView({ block: "nearest" });
}

function focusHit() {
  if (state.hits.length) setFocus(state.focus);
}

function columnsOfGrid() {
  const cards = [...$("hits").children];
  const wrapped = cards.findIndex((each) => each.offsetTop !== cards[0].offsetTop);
  return wrapped < 0 ? cards.length : wrapped;
}

// --- choosing and saving ---------------------------------------------------

function choose(hit, on = !state.chosen.has(hit.record)) {
  if (on) state.chosen.add(hit.record);
  else state.chosen.delete(hit.record);
  showChosen();
}

function chooseTo(index) {
  const last = state.hits.findLastIndex((hit, at) => at < index && state.chosen.has(hit.record));
  for (let at = last < 0 ? index : last; at <= index; at += 1) choose(state.hits[at], true);
}

function showChosen() {
  [...$("hits").children].forEach((item, index) => {
    item.setAttribute("aria-selected", String(state.chosen.has(state.hits[index]?.record)));
  });
  $("chosen").hidden = !state.chosen.size;
  $("remove").hidden = !state.about?.removal;
  $("chosen-count").textContent = `${state.chosen.size} chosen`;
  const pressed = state.open !== null && state.chosen.has(state.hits[state.open]?.record);
  $("detail-choose").setAttribute("aria-pressed", String(pressed));
  $("detail-choose").textContent = pressed ? "Chosen ✓" : "Choose";
}

async function save(format) {
  const records = state.hits.map((hit) => hit.record).filter((record) => state.chosen.has(record));
  $("busy").hidden = false;
  try {
    const answer = await call("/api/v1/export", { format, records, search: state.asked });
    const missing = answer.headers.get("X-Missing-Records")?.split(",").length ?? 0;
    const file = await answer.blob();
    const link = make("a");
    link.href = URL.createObjectURL(file);
    link.download = `hits.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    const rest = missing ? ` ${missing} of the chosen have been removed since.` : "";
    $("status").textContent = `Saved ${records.length - missing} as hits.${format}.${rest}`;
  } catch (error) {
    $("status").textContent = `${error.message} ${error.hint ?? ""}`;
  } finally {
    $("busy").hidden = true;
  }
}

// --- removing: asked twice, by two buttons at different places -----------------

function askRemoval() {
  $("removal-title").textContent = `Remove ${state.chosen.size} from the gallery?`;
  $("removal-first").hidden = false;
  $("removal-second").hidden = true;
  $("removal-problem").hidden = true;
  $("removal").showModal();
}

function askRemovalAgain() {
  $("removal-title").textContent = `Really remove ${state.chosen.size}? This cannot be undone here.`;
  $("removal-first").hidden = true;
  $("removal-second").hidden = false;
}

async function removeChosen() {
  const records = [...state.chosen];
  try {
    const told = await (await call("/api/v1/remove", { records, confirm: records.length })).json();
    $("removal").close();
    await search({ remember: false });
    $("status").textContent = `Removed ${told.removed}.`;
  } catch (error) {
    $("removal-problem").textContent = `${error.message} ${error.hint ?? ""}`;
    $("removal-problem").hidden = false;
  }
}

// --- the detail view -------------------------------------------------------

async function openDetail(index) {
  const hit = state.hits[index];
  if (!hit) return;
  state.open = index;
  $("detail-title").textContent = hit.name;
  $("detail-score").textContent = `Rank ${hit.rank} · score ${hit.score.toFixed(4)} of ${wholeWeight().toFixed(0)} at most`;
  $("detail-picture").alt = `Picture ${hit.name}`;
  $("detail-picture").src = `/api/v1/records/${hit.record}/picture`;
  $("stripe").hidden = true;
  $("parts").replaceChildren(...state.about.segments.map((segment) => partRow(segment, hit.split[segment.name])));
  showMetadata(hit.metadata);
  $("detail-state").hidden = true;
  $("detail-looked").hidden = true;
  $("detail-look").hidden = !(state.about.attention && state.asked.texts?.length);
  $("previous").disabled = index === 0;
  $("next").disabled = index === state.hits.length - 1;
  showChosen();
  if (!$("detail").open) $("detail").showModal();
  try {
    const record = await (await call(`/api/v1/records/${hit.record}`)).json();
    if (state.open !== index) return;
    showMetadata({ ...record.metadata, record: record.record, file: record.path });
    $("detail-state").hidden = record.state === "same";
    $("detail-state").textContent = record.state === "missing"
      ? "The file is not there any more."
      : "The file has changed since it was embedded: the score is that of the earlier one.";
  } catch (error) {
    $("detail-state").hidden = false;
    $("detail-state").textContent = error.message;
  }
}

async function showAttention() {
  const index = state.open;
  const hit = state.hits[index];
  try {
    const answer = await call(`/api/v1/records/${hit.record}/attention`, { text: state.asked.texts[0] });
    const address = URL.createObjectURL(await answer.blob());
    if (state.open !== index) return URL.revokeObjectURL(address);
    const link = $("detail-looked").querySelector("a");
    if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
    link.href = link.firstElementChild.src = address;
    $("detail-looked").hidden = false;
  } catch (error) {
    $("detail-state").hidden = false;
    $("detail-state").textContent = error.message;
  }
}

function partRow(segment, share) {
  const row = make("li");
  const part = /^fine\.(\d+)$/.exec(segment.name);
  row.tabIndex = part ? 0 : -1;
  row.append(make("span", "", segment.name), bar(share / segment.weight), make("span", "", `${share.toFixed(3)} of ${segment.weight.toFixed(3)}`));
  if (part) {
    const count = state.about.segments.filter((each) => each.name.startsWith("fine.")).length;
    const show = () => showStripe(Number(part[1]), count);
    const hide = () => { $("stripe").hidden = true; };
    row.title = "The stripe of the picture that this part belongs to";
    row.addEventListener("pointerenter", show);
    row.addEventListener("focus", show);
    row.addEventListener("pointerleave", hide);
    row.addEventListener("blur", hide);
  }
  return row;
}

function showStripe(part, count) {
  const stripe = $("stripe");
  stripe.style.top = `${(100 * part) / count}%`;
  stripe.style.height = `${100 / count}%`;
  stripe.hidden = false;
}

function showMetadata(metadata) {
  $("metadata").replaceChildren(...Object.entries(metadata).flatMap(([name, value]) => [make("dt", "", name), make("dd", "", String(value))]));
}

function closeDialogs() {
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
}

// --- filters ---------------------------------------------------------------

function showCameras() {
  const cameras = Object.entries(state.about?.cameras ?? {});
  $("cameras-field").hidden = !cameras.length;
  $("cameras").replaceChildren(...cameras.map(([name, count]) => {
    const chip = make("button", "", name);
    chip.type = "button";
    chip.setAttribute("aria-pressed", String(state.cameras.has(name)));
    chip.append(make("small", "", number(count)));
    chip.addEventListener("click", () => {
      if (!state.cameras.delete(name)) state.cameras.add(name);
      chip.setAttribute("aria-pressed", String(state.cameras.has(name)));
      filtersChanged();
    });
    return chip;
  }));
  showFilterCount();
}

function showFilterCount() {
  $("filters-count").hidden = !filtersUsed();
  $("filters-count").textContent = String(filtersUsed());
}

function filtersChanged() {
  showFilterCount();
  if (state.asked) search();
}

function clearFilters() {
  for (const id of ["after", "before", "where"]) $(id).value = "";
  $("per-id").checked = false;
  state.cameras.clear();
  showCameras();
  filtersChanged();
}

function toggleFilters() {
  const hidden = !$("filters").hidden;
  $("filters").hidden = hidden;
  $("filters-open").setAttribute("aria-expanded", String(!hidden));
  if (!hidden) $("filters").querySelector("button, input").focus();
}

function showTotal(total) {
  $("gallery").textContent = `${number(total)} ${total === 1 ? "record" : "records"}`;
}

async function loadAbout() {
  state.about = await (await call("/api/v1/columns")).json();
  showTotal(state.about.total);
  showCameras();
  $("where-help").textContent = `Comparisons joined by and, or, not; over: ${["record", "path", ...state.about.columns].join(", ")}`;
}

// --- keyboard --------------------------------------------------------------

function typing(target) {
  return target.matches("select, textarea, input:not([type=checkbox], [type=range])");
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing(event.target)) {
    if (event.key === "Escape") event.target.blur(), focusHit();
    return;
  }
  const dialog = document.querySelector("dialog[open]");
  if (dialog) onDialogKey(event, dialog);
  else onPageKey(event);
}

function onDialogKey(event, dialog) {
  if (dialog.id !== "detail") return;
  const steps = { ArrowLeft: -1, ArrowRight: 1 };
  if (event.key in steps) openDetail(state.open + steps[event.key]);
  else if (event.key === "m") moreLike(state.hits[state.open]);
  else if (event.key === " " && !event.target.closest("button")) choose(state.hits[state.open]);
  else return;
  event.preventDefault();
}

function onPageKey(event) {
  const inGrid = event.target.closest?.("#hits") !== null;
  const hit = inGrid ? state.hits[state.focus] : undefined;
  const keys = { "/": () => $("sentence").select(), "?": () => $("help").showModal(), f: toggleFilters };
  if (state.hits.length && (inGrid || event.target === document.body)) {
    const columns = columnsOfGrid();
    const to = (index) => () => setFocus(index, { scroll: true });
    Object.assign(keys, {
      ArrowLeft: to(state.focus - 1), ArrowRight: to(state.focus + 1), Home: to(0), End: to(state.hits.length - 1),
      ArrowUp: state.focus < columns ? () => { scrollTo({ top: 0 }); $("sentence").focus(); } : to(state.focus - columns),
      ArrowDown: inGrid ? to(state.focus + columns) : to(state.focus),
    });
  }
  if (hit) Object.assign(keys, { Enter: () => openDetail(state.focus), " ": () => choose(hit), m: () => moreLike(hit) });
  if (!(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
}

// --- start -----------------------------------------------------------------

function listen() {
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    search().then(focusHit);
  });
  $("sentence").addEventListener("input", showWeights);
  for (const id of ["after", "before", "where", "k", "per-id", "image-weight"]) $(id).addEventListener("change", filtersChanged);
  $("filters-open").addEventListener("click", toggleFilters);
  $("filters-clear").addEventListener("click", clearFilters);
  $("empty-clear").addEventListener("click", clearFilters);
  $("retry").addEventListener("click", () => (state.about ? search() : start()));
  $("forget").addEventListener("click", () => {
    localStorage.removeItem(HISTORY);
    showRemembered();
  });
  $("picture-choose").addEventListener("click", () => $("picture").click());
  $("picture").addEventListener("change", () => {
    addPicture($("picture").files[0]);
    $("picture").value = "";
  });
  $("help-open").addEventListener("click", () => $("help").showModal());
  $("detail-like").addEventListener("click", () => moreLike(state.hits[state.open]));
  $("detail-choose").addEventListener("click", () => choose(state.hits[state.open]));
  $("detail-look").addEventListener("click", showAttention);
  $("previous").addEventListener("click", () => openDetail(state.open - 1));
  $("next").addEventListener("click", () => openDetail(state.open + 1));
  $("save-csv").addEventListener("click", () => save("csv"));
  $("save-zip").addEventListener("click", () => save("zip"));
  $("remove").addEventListener("click", askRemoval);
  $("removal-first").addEventListener("click", askRemovalAgain);
  $("removal-second").addEventListener("click", removeChosen);
  $("choose-none").addEventListener("click", () => {
    state.chosen.clear();
    showChosen();
    focusHit();
  });
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    });
  }
  $("detail").addEventListener("close", () => {
    const index = state.open;
    state.open = null;
    if (index !== null && state.hits.length) setFocus(index, { scroll: true });
  });
  document.addEventListener("keydown", onKey);
  addEventListener("popstate", (event) => restore(event.state));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("drop");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("drop");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("drop");
    addPicture(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (file) addPicture(file);
  });
}

async function start() {
  try {
    await loadAbout();
    showStart();
  } catch (error) {
    showFailure(error);
  }
}

$("suggestions").replaceChildren(...EXAMPLES.map(sentenceChip));
showRemembered();
listen();
start();
