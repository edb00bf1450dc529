// The page: a state, what is asked with it, and what is shown of the answers.
//
// Texts of the model go into the page as text, never as HTML; the state in the URL is checked by the
// server as every other.

import { drawBar, written } from "./colours.js";
import { Picture } from "./picture.js";

const $ = (id) => document.getElementById(id);
const NAMES = { mean: "Mean", sigma: "σ", draw: "Draw", parameter: "Parameter", "posterior mean": "Posterior mean", "posterior sigma": "Posterior σ", error: "True error" };
const FEW = 6;
const TOKEN = new URLSearchParams(location.search).get("token") ?? "";
const STEPS = 1000;
// Milliseconds after which what is shown is marked as that of other parameters.
const LATE = 600;

let scene, picture, state, last, posterior = null, solvedAt = null, held = null;
const rows = [];

// --- questions -------------------------------------------------------------------------------

async function ask(name, given = null) {
  const answer = await fetch(`api/${name}`, { method: "POST", headers: { "X-Pddlvm": TOKEN, "Content-Type": "application/json" }, body: JSON.stringify(given) });
  if (!answer.ok) throw new Error((await answer.text()).trim() || `the server answered ${answer.status}`);
  return decoded(await answer.arrayBuffer());
}

function decoded(buffer) {
  const length = new DataView(buffer).getUint32(0, true), head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  const arrays = {};
  for (const [name, n] of head.arrays) { arrays[name] = new Float32Array(buffer, at, n); at += 4 * n; }
  return { ...head, arrays };
}

// One question of a kind at a time: while it is under way, only the newest of the next ones waits.
function newest(question) {
  let isBusy = false, isDue = false;
  return async function run() {
    if (isBusy) { isDue = true; return; }
    isBusy = true;
    document.body.classList.add("busy");
    const late = setTimeout(() => document.body.classList.add("late"), LATE);
    try { do { isDue = false; await question(); } while (isDue); } catch (error) { complain(error); } finally { isBusy = false; clearTimeout(late); document.body.classList.remove("busy", "late"); }
  };
}

const update = newest(async () => {
  const asked = sent(), start = performance.now();
  const answer = await ask("answer", asked);
  last = answer;
  shown(answer, asked.view);
  answer.total = performance.now() - start;
  document.body.dataset.answers = Number(document.body.dataset.answers ?? 0) + 1;
  keep();
});

// A bound is dear: it is asked for when the parameters rest, and once for each of them.
let resting, boundAt = null;
function rest() {
  if (boundAt === key()) return;
  boundAt = key();
  clearTimeout(resting);
  for (const id of ["bound", "boundname"]) $(id).classList.add("stale");
  resting = setTimeout(async () => {
    const at = key();
    try {
      const { bound } = await ask("bound", sent());
      if (at !== key()) return;
      for (const id of ["bound", "boundname"]) { $(id).hidden = bound === null; $(id).classList.remove("stale"); }
      $("bound").textContent = percent(bound);
    } catch (error) { complain(error); }
  }, 400);
}

const infer = newest(async () => {
  const has = state.sensors.some((s) => s.y.some((v) => v !== null));
  if (!has) { posterior = null; showPosterior(); return; }
  $("posterior").hidden = false;
  $("pverdict").textContent = "inferring …"; $("pverdict").className = "pill"; $("preason").textContent = "";
  try { posterior = await ask("posterior", sent()); } catch (error) { posterior = null; showPosterior(); throw error; }
  showPosterior();
  if (state.view.startsWith("posterior")) update();
});

function sent() {
  return { ...state, z: [...state.z], sensors: state.sensors.map(({ x, time, y }) => ({ x, time, y })) };
}

// --- the state and the URL -----------------------------------------------------------------------

const code = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
const decode = (text) => new TextDecoder().decode(Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0)));

let keeping;
function keep() {
  clearTimeout(keeping);
  keeping = setTimeout(() => history.replaceState(null, "", `${location.pathname}${location.search}#${code(JSON.stringify(sent()))}`), 300);
}

function fresh() {
  return { z: scene.blocks.flatMap((b) => b.parameters.map((p) => p.z)), view: "mean", field: Object.keys(scene.fields)[0], component: -1, corrections: 0, seed: 0, time: Math.max(scene.times.length - 1, 0), sensors: [], noise: 1 };
}

async function restored() {
  if (location.hash.length < 2) return null;
  try {
    const found = { ...fresh(), ...JSON.parse(decode(location.hash.slice(1))) };
    if (found.view === "error") found.view = "mean";
    await ask("answer", found);
    for (const s of found.sensors) s.time ??= 0;
    return found;
  } catch (error) {
    complain(new Error(`the link was not understood: ${error.message}`));
    return null;
  }
}

// --- what is shown -------------------------------------------------------------------------------

function complain(error) { $("message").textContent = error.message.slice(0, 2000); $("message").hidden = false; }

function pill(element, reason, verdict) {
  const word = verdict.match(/^[a-z]+/i)?.[0] ?? "", rest = verdict.slice(word.length).replace(/^[:\s]+/, "");
  element.className = `pill ${["accept", "refine", "reject"].includes(word) ? word : ""}`;
  element.textContent = word || verdict;
  if (reason) reason.textContent = rest; else element.title = rest;
}

function shown(answer, view) {
  const isSpread = ["sigma", "posterior sigma", "error"].includes(view), lut = isSpread ? "magma" : "viridis";
  const own = [isSpread ? 0 : answer.low, answer.high], range = (held ??= $("hold").checked ? own : null) ?? own;
  state.sensors.forEach((s, i) => { Object.defineProperty(s, "seen", { value: answer.sensors[i], configurable: true, writable: true }); s.y = s.y.map((v, c) => (v === undefined ? Number(answer.sensors[i][c].toPrecision(4)) : v)); });
  picture.sensors = seen();
  picture.show(answer, range, lut);
  $("scale").hidden = scene.kind === "line";
  if ($("bar").dataset.lut !== lut) { drawBar($("bar"), lut); $("bar").dataset.lut = lut; }
  $("low").textContent = written(range[0]);
  $("high").textContent = written(range[1]);
  const enlarged = picture.view.enlarged && answer.arrays.displacement ? `, deformation × ${written(picture.view.enlarged)}` : "";
  $("caption").textContent = caption() + enlarged;
  $("residual").textContent = answer.residual === null ? "∞" : percent(answer.residual);
  pill($("verdict"), $("reason"), answer.verdict);
  $("milliseconds").textContent = duration(answer.milliseconds);
  rest();
  const isStale = solvedAt !== null && solvedAt !== key();
  $("solved").classList.toggle("quiet", isStale);
  if (isStale) forget();
  showSensors();
}

const duration = (ms) => (ms < 1000 ? `${written(ms, 2)} ms` : `${written(ms / 1000, 2)} s`);
const percent = (x) => (x === null ? "–" : x >= 1e-4 ? `${written(100 * x, 2)} %` : written(x, 2));
const key = () => JSON.stringify([state.z, state.corrections]);
const seen = () => state.sensors.map((s) => { Object.defineProperty(s, "shown", { value: !scene.times.length || s.time === state.time, configurable: true }); return s; });

function caption() {
  const of = state.view === "parameter" || state.view.startsWith("posterior") || Object.keys(scene.fields).length > 1 ? ` of ${state.field}` : "";
  const size = isVector() && state.component < 0 ? ", length" : isVector() ? `, component ${state.component + 1}` : "";
  const band = scene.kind === "line" && ["mean", "draw"].includes(state.view) ? " with ±2σ" : "";
  return `${NAMES[state.view]}${of}${size}${band}`;
}

const isVector = () => (scene.fields[state.field] ?? 1) > 1 && state.view !== "parameter";

function forget() {
  solvedAt = null;
  $("solved").hidden = true;
  picture.view.setReference?.(null);
  if (state.view === "error") choose("mean");
  tabs();
}

function tabs() {
  const has = { parameter: scene.parameterFields.length > 0, "posterior mean": posterior, "posterior sigma": posterior, error: solvedAt !== null };
  for (const button of $("views").children) {
    const view = button.dataset.view;
    button.setAttribute("aria-selected", String(view === state.view));
    button.disabled = view in has && !has[view];
    button.hidden = view === "parameter" && !has.parameter;
  }
  const names = state.view === "parameter" ? scene.parameterFields : state.view.startsWith("posterior") ? [...Object.keys(scene.fields), ...scene.parameterFields] : Object.keys(scene.fields);
  options($("field"), names.map((n) => [n, n]), state.field);
  const n = isVector() ? scene.fields[state.field] : 1;
  options($("component"), n > 1 ? [[-1, "length"], ...Array.from({ length: n }, (_, i) => [i, `component ${i + 1}`])] : [], state.component);
}

function options(select, pairs, chosen) {
  select.hidden = pairs.length < 2;
  const wanted = JSON.stringify(pairs);
  if (select.dataset.has !== wanted) {
    select.replaceChildren(...pairs.map(([value, text]) => Object.assign(document.createElement("option"), { value, textContent: text })));
    select.dataset.has = wanted;
  }
  select.value = String(chosen);
}

function choose(view) {
  if (view === "draw" && state.view === "draw") state.seed = (state.seed + 1) % 2 ** 31;
  const names = view === "parameter" ? scene.parameterFields : Object.keys(scene.fields);
  if (!names.includes(state.field) && !(view.startsWith("posterior") && scene.parameterFields.includes(state.field))) { state.field = names[0]; state.component = -1; }
  if (view === "parameter") state.component = -1;
  state.view = view;
  held = null;
  tabs();
  update();
}

// --- parameters ------------------------------------------------------------------------------------

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function position(p, z) { return p.log ? Math.log(z / p.low) / Math.log(p.high / p.low) : (z - p.low) / (p.high - p.low); }
function valueAt(p, s) { return p.log ? p.low * (p.high / p.low) ** s : p.low + s * (p.high - p.low); }

function makeBlocks() {
  for (const block of scene.blocks) {
    const made = element("details", { open: true }, element("summary", {}, element("span", { textContent: block.name }), element("span", { className: "quiet", textContent: `  ${block.parameters.length > 1 ? `${block.parameters.length} parameters` : ""}`, title: block.prior })));
    const own = block.parameters.map((p) => parameterRow(p));
    made.append(...own.slice(0, FEW));
    if (own.length > FEW) made.append(element("details", {}, element("summary", { className: "quiet", textContent: `${own.length - FEW} more` }), ...own.slice(FEW)));
    $("blocks").append(made);
  }
}

function parameterRow(p) {
  const i = rows.length, slider = element("input", { type: "range", min: 0, max: STEPS, step: 1 }), number = element("input", { type: "text", inputMode: "decimal" });
  slider.setAttribute("aria-label", p.name);
  number.setAttribute("aria-label", `value of ${p.name}`);
  const band = element("div", { className: "band", hidden: true }, element("i"));
  slider.addEventListener("input", () => { state.z[i] = Number(valueAt(p, slider.value / STEPS).toPrecision(6)); number.value = written(state.z[i], 4); update(); });
  number.addEventListener("change", () => { const z = Number(number.value); if (number.value.trim() && Number.isFinite(z)) { state.z[i] = Math.min(p.high, Math.max(p.low, z)); update(); } sliders(); });
  rows.push({ p, slider, number, band });
  return element("div", { className: "parameter" }, element("span", { textContent: p.name.match(/\[\d+\]$/)?.[0] ?? p.name, title: p.name }), element("div", { className: "track" }, slider, band), number);
}

function sliders() {
  rows.forEach(({ p, slider, number }, i) => { slider.value = String(Math.round(STEPS * position(p, state.z[i]))); number.value = written(state.z[i], 4); });
}

const clamp = (s) => Math.min(1, Math.max(0, Number.isFinite(s) ? s : 0));

function showPosterior() {
  $("posterior").hidden = !posterior;
  rows.forEach(({ p, band }, i) => {
    band.hidden = !posterior;
    if (!posterior) return;
    const [a, m, b] = posterior.quantiles.map((q) => clamp(position(p, p.log ? Math.max(q[i], 1e-300) : q[i]))), width = Math.max(b - a, 0.012);
    band.style.left = `${100 * a}%`; band.style.width = `${100 * width}%`;
    band.firstChild.style.left = `${100 * clamp((m - a) / width)}%`;
  });
  tabs();
  if (!posterior) return;
  pill($("pverdict"), $("preason"), posterior.verdict);
  $("pvalue").textContent = written(posterior.pValue, 2);
  $("pms").textContent = duration(posterior.milliseconds);
  const shares = rows.map(({ p }, i) => (posterior.quantiles[2][i] - posterior.quantiles[0][i]) / (p.high - p.low)).filter((s) => s < 0.5).length;
  $("narrow").textContent = `${shares} of ${rows.length}`;
}

// --- sensors -----------------------------------------------------------------------------------------

function showSensors() {
  const has = state.sensors.length > 0, wanted = JSON.stringify(state.sensors.map((s) => [s.x, s.time, s.y]));
  $("noiseline").hidden = !has; $("clear").disabled = !has; $("here").disabled = !has;
  if (document.activeElement !== $("noise")) $("noise").value = written(state.noise, 4);
  if ($("sensors").dataset.has === wanted) return;
  $("sensors").dataset.has = wanted;
  $("sensors").replaceChildren(...state.sensors.map((sensor, i) => {
    const values = sensor.y.map((v, c) => {
      const input = element("input", { type: "text", inputMode: "decimal", value: v === null || v === undefined ? "" : String(v), placeholder: "none" });
      input.setAttribute("aria-label", `reading ${i + 1}`);
      input.addEventListener("change", () => { const read = Number(input.value); sensor.y[c] = input.value.trim() && Number.isFinite(read) ? read : null; showSensors(); picture.redraw(); infer(); keep(); });
      return input;
    });
    const place = sensor.x.map((x) => written(x)).join(", ") + (scene.times.length ? `; t = ${written(scene.times[sensor.time])}` : "");
    const gone = element("button", { textContent: "×", title: "Remove" });
    gone.addEventListener("click", () => { state.sensors.splice(i, 1); update(); infer(); });
    return element("div", { className: "sensor" }, element("b", { textContent: String(i + 1) }), element("span", { className: "quiet", textContent: `(${place})` }), element("div", { className: "values" }, ...values), gone);
  }));
}

async function addSensor(found) {
  const n = Object.values(scene.fields)[0], sensor = { x: found.x, time: state.time, y: Array(n).fill(null) };
  if (!state.sensors.length && state.noise === 1) state.noise = Number((0.02 * (Math.abs(last.high - last.low) || 1)).toPrecision(1));
  const asked = sent();
  asked.sensors.push(sensor);
  try {
    const answer = await ask("answer", asked);
    sensor.y = answer.sensors.at(-1).map((v) => Number(v.toPrecision(4)));
    state.sensors.push(sensor);
    update(); infer();
  } catch (error) { complain(error); }
}

// --- the rest ------------------------------------------------------------------------------------------

async function solve() {
  $("solve").disabled = true;
  $("solve").textContent = "Solving…";
  const asked = sent(), at = key();
  try {
    const found = await ask("solve", asked);
    if (at !== key()) return;
    solvedAt = at;
    $("relative").textContent = percent(found.relative);
    $("inside").textContent = found.inside === null ? "–" : `${written(100 * found.inside, 3)} %`;
    $("seconds").textContent = duration(1e3 * found.seconds);
    $("solved").hidden = false;
    if (scene.kind === "line") { picture.view.setReference?.(found.arrays.reference); picture.redraw(); }
    tabs();
    if (scene.kind !== "line") choose("error");
  } catch (error) { complain(error); } finally {
    $("solve").disabled = false;
    $("solve").textContent = `Solve with ${scene.solver}`;
  }
}

let playing = null;
function play() {
  if (playing) { clearInterval(playing); playing = null; $("play").textContent = "Play"; return; }
  $("play").textContent = "Pause";
  const stride = Math.max(1, Math.round(scene.times.length / 100));
  playing = setInterval(() => { setTime((state.time + stride) % scene.times.length); }, 80);
}

function setTime(k) {
  state.time = k;
  $("step").value = String(k);
  $("now").textContent = `t = ${written(scene.times[k], 3)}`;
  if (scene.kind === "line") picture.view.setReference?.(null);
  update();
}

async function start() {
  scene = await ask("scene");
  document.title = `${scene.title} · pddlvm`;
  $("title").textContent = scene.title;
  $("size").textContent = `${scene.nParameters} parameters, ${scene.nDofs.toLocaleString("en")} unknowns${scene.times.length ? `, ${scene.times.length} times` : ""}`;
  if (scene.verdict) { $("training").hidden = false; pill($("training"), null, scene.verdict); $("training").textContent = `training: ${$("training").textContent}`; }
  $("solve").textContent = `Solve with ${scene.solver}`;
  state = (await restored()) ?? fresh();
  for (const view of scene.views) {
    const button = element("button", { textContent: NAMES[view] ?? view });
    button.dataset.view = view;
    button.setAttribute("role", "tab");
    button.addEventListener("click", () => choose(view));
    $("views").append(button);
  }
  makeBlocks();
  sliders();
  picture = new Picture(Object.fromEntries(["picture", "draw", "over", "bar"].map((id) => [id, $(id)])), scene, {
    click: addSensor,
    drawn: () => {
      if (!picture?.view.answer) return;
      document.body.dataset.pictures = Number(document.body.dataset.pictures ?? 0) + 1;
      document.body.dataset.first ??= performance.now();
    },
    over: (found, x, y) => {
      $("tip").hidden = !found;
      if (!found) return;
      $("tip").textContent = `(${found.x.map((v) => written(v)).join(", ")}):  ${written(found.value, 4)}`;
      const isLeft = x > 0.7 * $("picture").clientWidth;
      $("tip").style.left = isLeft ? "" : `${x + 14}px`;
      $("tip").style.right = isLeft ? `${$("picture").clientWidth - x + 14}px` : "";
      $("tip").style.top = `${y + 14}px`;
    },
  });
  $("meshed").hidden = scene.kind === "line";
  $("corrections").checked = state.corrections > 0;
  if (scene.times.length) { $("time").hidden = false; $("step").max = String(scene.times.length - 1); $("step").value = String(state.time); $("now").textContent = `t = ${written(scene.times[state.time], 3)}`; }
  wire();
  tabs();
  update();
  infer();
}

function wire() {
  $("random").addEventListener("click", async () => { try { state.z = (await ask("draw", Math.floor(Math.random() * 2 ** 31))).z; sliders(); update(); } catch (error) { complain(error); } });
  $("reset").addEventListener("click", () => { state.z = fresh().z; sliders(); update(); });
  $("field").addEventListener("change", () => { state.field = $("field").value; state.component = -1; held = null; tabs(); update(); });
  $("component").addEventListener("change", () => { state.component = Number($("component").value); held = null; update(); });
  $("corrections").addEventListener("change", () => { state.corrections = $("corrections").checked ? 1 : 0; update(); });
  $("mesh").addEventListener("change", () => { picture.hasMesh = $("mesh").checked; picture.redraw(); });
  $("hold").addEventListener("change", () => { held = $("hold").checked ? [...picture.range] : null; update(); });
  $("solve").addEventListener("click", solve);
  $("play").addEventListener("click", play);
  $("step").addEventListener("input", () => setTime(Number($("step").value)));
  $("clear").addEventListener("click", () => { state.sensors = []; if (state.view.startsWith("posterior")) state.view = "mean"; posterior = null; tabs(); update(); infer(); });
  $("here").addEventListener("click", () => { for (const s of state.sensors) if (s.seen) s.y = s.seen.map((v) => Number(v.toPrecision(4))); showSensors(); picture.redraw(); infer(); keep(); });
  $("noise").addEventListener("change", () => { const std = Number($("noise").value); if (std > 0 && Number.isFinite(std)) { state.noise = std; infer(); keep(); } else $("noise").value = written(state.noise, 4); });
  $("goto").addEventListener("click", () => { state.z = rows.map(({ p }, i) => Math.min(p.high, Math.max(p.low, Number(posterior.quantiles[1][i].toPrecision(6))))); sliders(); update(); });
  $("load").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", async () => {
    const file = $("file").files[0];
    $("file").value = "";
    if (!file) return;
    try { state.sensors = (await ask("load", await file.text())).sensors.map((s) => ({ time: 0, ...s })); update(); infer(); } catch (error) { complain(error); }
  });
  $("message").addEventListener("click", () => { $("message").hidden = true; });
  $("link").addEventListener("click", async () => {
    clearTimeout(keeping);
    history.replaceState(null, "", `${location.pathname}${location.search}#${code(JSON.stringify(sent()))}`);
    try { await navigator.clipboard.writeText(location.href); $("link").textContent = "Copied"; } catch { $("link").textContent = "It is in the address"; }
    setTimeout(() => { $("link").textContent = "Copy link"; }, 1500);
  });
  $("save").addEventListener("click", async () => {
    const blob = await picture.export(`${scene.title}: ${$("caption").textContent}`, $("low").textContent, $("high").textContent);
    const link = element("a", { href: URL.createObjectURL(blob), download: "pddlvm.png" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

start().catch(complain);
