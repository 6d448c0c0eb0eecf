"use strict";
// Draws a form from /openapi.json, runs a prediction, and shows what it says while it says it. What comes from the server is
// only ever put into the page as text.

const $ = (id) => document.getElementById(id);
const make = (tag, props = {}, ...inside) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...inside);
  return node;
};
let document_, kind = "prediction", fields = [], running = null, token = sessionStorage.getItem("token") || "";

const headers = (more = {}) => (token ? { ...more, authorization: `Bearer ${token}` } : more);

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers(options.headers) });
  $("token-row").hidden = !(token || answer.status === 401);
  return answer;
}

function trouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

const words = (detail) => typeof detail === "string" ? detail
  : Array.isArray(detail) ? detail.map((d) => `${(d.loc || []).join(".")}: ${d.msg}`).join("\n") : JSON.stringify(detail);

// -- the schema ---------------------------------------------------------------------------------------------------------

function whole(schema) {  // with what it refers to put in; of a union with null, the other part
  if (!schema) return {};
  if (schema.$ref) {
    const found = schema.$ref.slice(2).split("/").reduce((at, name) => at && at[name], document_);
    return whole({ ...found, ...schema, $ref: undefined });
  }
  for (const name of ["allOf", "anyOf", "oneOf"]) {
    if (!schema[name]) continue;
    const parts = schema[name].filter((s) => s.type !== "null").map(whole);
    const nullable = parts.length < schema[name].length;
    const { [name]: _, ...rest } = schema;
    if (parts.length === 1 || name === "allOf") return { ...Object.assign({}, ...parts), ...rest, nullable };
    return { ...rest, nullable, parts };
  }
  if (Array.isArray(schema.type)) {
    const types = schema.type.filter((t) => t !== "null");
    return { ...schema, type: types.length === 1 ? types[0] : undefined, nullable: types.length < schema.type.length };
  }
  return schema;
}

function called(s) {
  if (s.parts) return s.parts.map(called).join(" | ");
  if (s.enum) return "choice";
  if (s.type === "array") return `list of ${called(whole(s.items))}`;
  return s.format === "uri" ? "file" : s.format === "password" || s.writeOnly ? "secret" : s.type || "any";
}

function bounds(s) {
  const said = [];
  if (s.minimum !== undefined) said.push(`≥ ${s.minimum}`);
  if (s.exclusiveMinimum !== undefined) said.push(`> ${s.exclusiveMinimum}`);
  if (s.maximum !== undefined) said.push(`≤ ${s.maximum}`);
  if (s.exclusiveMaximum !== undefined) said.push(`< ${s.exclusiveMaximum}`);
  if (s.minLength !== undefined) said.push(`at least ${s.minLength} characters`);
  if (s.maxLength !== undefined) said.push(`at most ${s.maxLength} characters`);
  if (s.pattern !== undefined) said.push(`like ${s.pattern}`);
  return said.join(", ");
}

// -- the form -----------------------------------------------------------------------------------------------------------
// A control is {node, read() -> value or undefined, write(value)}. read throws an Error with words for the user.

function choiceControl(s, must) {
  const node = make("select");
  if (!must && s.default === undefined) node.append(make("option", { value: "", textContent: "—" }));
  s.enum.forEach((v, i) => node.append(make("option", { value: String(i), textContent: String(v) })));
  return { node, read: () => (node.value === "" ? undefined : s.enum[Number(node.value)]),
    write: (v) => { const at = s.enum.indexOf(v); node.value = at < 0 ? (must ? "0" : "") : String(at); } };
}

function numberControl(s) {
  const step = s.type === "integer" ? 1 : "any";
  const limits = { min: s.minimum ?? "", max: s.maximum ?? "" };
  const input = make("input", { type: "number", step, ...limits, className: "code" });
  const read = () => {
    if (input.validity.badInput) throw new Error("not a number");
    if (input.value === "") return undefined;
    return Number(input.value);
  };
  if (s.minimum === undefined || s.maximum === undefined) return { node: input, read, write: (v) => { input.value = v ?? ""; } };
  const slide = make("input", { type: "range", ...limits, step: s.type === "integer" ? 1 : (s.maximum - s.minimum) / 200, tabIndex: -1 });
  slide.addEventListener("input", () => { input.value = String(Number(Number(slide.value).toPrecision(6))); });
  input.addEventListener("input", () => { slide.value = input.value; });
  return { node: make("div", { className: "pair" }, slide, input), read, input, write: (v) => { input.value = v ?? ""; slide.value = v ?? s.minimum; } };
}

function fileControl(s) {
  const url = make("input", { type: "text", placeholder: "https://… or choose a file", className: "code", spellcheck: false });
  const file = make("input", { type: "file", accept: s["x-cog-accept"] || "" });
  const node = make("div", { className: "file" }, url, file);
  let data;
  const take = (chosen) => {
    if (!chosen) return;
    const reader = new FileReader();
    reader.onload = () => { data = reader.result; url.value = ""; url.placeholder = `${chosen.name}, ${chosen.size} bytes`; node.dispatchEvent(new Event("input", { bubbles: true })); };
    reader.readAsDataURL(chosen);
  };
  file.addEventListener("change", () => take(file.files[0]));
  url.addEventListener("input", () => { data = undefined; file.value = ""; });
  node.addEventListener("dragover", (e) => { e.preventDefault(); node.classList.add("over"); });
  node.addEventListener("dragleave", () => node.classList.remove("over"));
  node.addEventListener("drop", (e) => { e.preventDefault(); node.classList.remove("over"); file.files = e.dataTransfer.files; take(file.files[0]); });
  return { node, input: url, read: () => data ?? (url.value || undefined), write: (v) => { data = undefined; url.value = v ?? ""; file.value = ""; } };
}

function jsonControl(s) {
  const node = make("textarea", { className: "json", spellcheck: false, placeholder: "JSON" });
  return { node, write: (v) => { node.value = v === undefined ? "" : JSON.stringify(v); },
    read: () => {
      if (node.value.trim() === "") return undefined;
      try { return JSON.parse(node.value); } catch (e) {
        if ((s.parts || []).some((p) => p.type === "string")) return node.value;
        throw new Error(`not JSON: ${e.message}`);
      }
    } };
}

function textControl(s) {
  const secret = s.format === "password" || s.writeOnly;
  const node = secret ? make("input", { type: "password", autocomplete: "off" }) : make("textarea", { rows: 1 });
  let touched = false;  // an empty text is a value once somebody emptied it
  node.addEventListener("input", () => { touched = true; });
  return { node, write: (v) => { node.value = v ?? ""; touched = false; },
    read: () => (node.value !== "" || (!secret && (touched || s.default !== undefined)) ? node.value : undefined) };
}

function yesControl(s, must) {
  const node = make("input", { type: "checkbox" });
  let touched = false;
  node.addEventListener("input", () => { touched = true; });
  return { node, read: () => (must || touched || s.default !== undefined ? node.checked : undefined), write: (v) => { node.checked = v === true; touched = false; } };
}

function controlFor(s, must) {
  if (s.enum) return choiceControl(s, must);
  if (s.type === "boolean") return yesControl(s, must);
  if (s.type === "integer" || s.type === "number") return numberControl(s);
  if (s.type === "string") return s.format === "uri" ? fileControl(s) : textControl(s);
  return jsonControl(s);
}

const inputName = () => (kind === "training" ? "TrainingInput" : "Input");

function draw() {
  const schema = whole(document_.components.schemas[inputName()]);
  const must = new Set(schema.required || []);
  const all = Object.entries(schema.properties || {}).map(([name, s]) => [name, whole(s)]);
  all.sort((a, b) => (a[1]["x-order"] ?? 0) - (b[1]["x-order"] ?? 0));
  const open = !schema.properties;
  if (open) all.push(["input", { type: "object", default: {} }]);
  fields = all.map(([name, s], i) => {
    const control = controlFor(s, must.has(name));
    const input = control.input || control.node;
    input.id = `field-${i}`;
    if (!must.has(name) && "placeholder" in input && !input.placeholder) input.placeholder = "optional";
    const label = make("label", { htmlFor: input.id }, name);
    if (must.has(name)) label.append(make("span", { className: "must", textContent: "*", title: "needed" }));
    label.append(make("span", { className: "type", textContent: [called(s), bounds(s), s.deprecated ? "deprecated" : ""].filter(Boolean).join(" · ") }));
    const wrong = make("p", { className: "wrong", hidden: true });
    const row = make("div", { className: "field" }, label);
    if (s.description && s.description !== "An enumeration.") row.append(make("p", { className: "about", textContent: s.description }));
    row.append(control.node, wrong);
    return { name, schema: s, must: must.has(name), control, row, wrong, whole: open };
  });
  $("fields").replaceChildren(...fields.map((f) => f.row));
  if (!fields.length) $("fields").append(make("p", { className: "dim", textContent: "It takes no input." }));
  defaults();
}

function defaults() {
  for (const f of fields) f.control.write(f.schema.default === null ? undefined : f.schema.default);
  clearWrong();
  showCommand();
}

function clearWrong() {
  for (const f of fields) { f.wrong.hidden = true; f.row.classList.remove("bad-field"); }
  trouble("");
}

function say(field, text) {
  field.wrong.textContent = text;
  field.wrong.hidden = false;
  field.row.classList.add("bad-field");
}

function read(quiet = false) {  // the input, or null if something in it is wrong
  let input = {}, good = true;
  for (const f of fields) {
    try {
      const value = f.control.read();
      if (f.whole) input = value ?? {};
      else if (value !== undefined) input[f.name] = value;
      else if (f.must) throw new Error("needed");
    } catch (e) {
      good = false;
      if (!quiet) say(f, e.message);
    }
  }
  return good ? input : null;
}

function showCommand() {
  const short = (_, v) => (typeof v === "string" && v.startsWith("data:") && v.length > 80 ? `${v.slice(0, 40)}…` : v);
  const body = JSON.stringify({ input: read(true) ?? {} }, short).replaceAll("'", "'\\''");
  const bearer = token ? " \\\n  -H 'Authorization: Bearer …'" : "";
  $("command").textContent = `curl -N ${location.origin}/${kind}s \\\n  -H 'Content-Type: application/json' -H 'Accept: text/event-stream'${bearer} \\\n  -d '${body}'`;
}

// -- running ------------------------------------------------------------------------------------------------------------

function pill(node, text, tone) {
  node.textContent = text;
  node.className = `pill ${tone}`;
  node.hidden = false;
}

const tones = { starting: "busy", processing: "busy", succeeded: "good", failed: "bad", canceled: "bad" };

function shown(value) {  // a node for a value of an output
  if (typeof value === "string") {
    const mime = /^data:([\w.+-]+\/[\w.+-]+)?/.exec(value);
    const path = /^https?:\/\/\S+$/.test(value) ? value : null;
    if (mime) {
      const family = (mime[1] || "").split("/")[0];
      if (family === "image") return make("img", { src: value, alt: "output" });
      if (family === "audio" || family === "video") return make(family, { src: value, controls: true });
      return make("a", { href: value, download: "output", textContent: `Save (${mime[1] || "data"}, ${value.length} characters)` });
    }
    return path ? make("a", { href: path, textContent: path, rel: "noreferrer", target: "_blank" }) : document.createTextNode(value);
  }
  return document.createTextNode(JSON.stringify(value, null, 2));
}

function showOutput(value) {
  const box = $("output");
  if (Array.isArray(value) && value.every((v) => typeof v === "string") && !joined()) {
    box.replaceChildren(...value.map((v) => make("div", { className: "item" }, shown(v))));
  } else {
    const told = joined() && Array.isArray(value) ? value.join("") : value;
    box.classList.toggle("code", typeof told !== "string");
    box.replaceChildren(shown(told));
  }
  if (value === null) box.replaceChildren(make("span", { className: "dim", textContent: "No output." }));
}

const joined = () => (document_.components.schemas[kind === "training" ? "TrainingOutput" : "Output"] || {})["x-cog-array-display"] === "concatenate";

function add(box, node) {
  const follow = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  box.append(node);
  if (follow) box.scrollTop = box.scrollHeight;
}

function hear(event, data) {
  if (event === "start") pill($("status"), "processing", "busy");
  else if (event === "output") add($("output"), joined() ? shown(data.chunk) : make("div", { className: "item" }, shown(data.chunk)));
  else if (event === "log") {
    $("logs").hidden = $("logs-title").hidden = false;
    add($("logs"), data.data ?? "");
  } else if (event === "metric") metrics({ [data.name]: data.value }, true);
  else if (event === "completed" || event === "error") finished(data);
}

function metrics(found, more) {
  const flat = (at, path) => Object.entries(at).flatMap(([k, v]) =>
    v && typeof v === "object" && !Array.isArray(v) ? flat(v, `${path}${k}.`) : [[path + k, v]]);
  if (!more) $("metrics").replaceChildren();
  for (const [name, value] of flat(found, "")) {
    const text = `${name} ${typeof value === "number" ? Number(value.toPrecision(5)) : JSON.stringify(value)}`;
    const there = [...$("metrics").children].find((c) => c.dataset.name === name);
    if (there) there.textContent = text;
    else { const node = make("span", { textContent: text }); node.dataset.name = name; $("metrics").append(node); }
    $("metrics").hidden = false;
  }
}

function finished(told) {
  pill($("status"), told.status, tones[told.status] || "");
  if (told.status === "succeeded") showOutput(told.output);
  if (told.error) add($("output"), make("div", { className: "error", textContent: told.error }));
  else if (told.status === "canceled") add($("output"), make("div", { className: "error", textContent: "Canceled." }));
  if (told.logs) { $("logs").textContent = told.logs; $("logs").hidden = $("logs-title").hidden = false; }
  metrics(told.metrics || {}, false);
  const short = (_, v) => (typeof v === "string" && v.startsWith("data:") && v.length > 200 ? `${v.slice(0, 100)}… (${v.length} characters)` : v);
  $("raw").textContent = JSON.stringify(told, short, 2);
  $("raw-row").hidden = false;
  if (running) running.ended = true;
}

async function follow(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const said = {};
      for (const line of block.split("\n")) {
        const at = line.indexOf(": ");
        if (at > 0) said[line.slice(0, at)] = line.slice(at + 2);
      }
      if (said.event) hear(said.event, JSON.parse(said.data));
    }
  }
}

function begin() {
  clearWrong();
  $("output").replaceChildren();
  $("output").classList.remove("code");
  $("output").classList.add("runs");
  $("logs").textContent = $("took").textContent = "";
  $("logs").hidden = $("logs-title").hidden = $("raw-row").hidden = $("metrics").hidden = true;
  $("metrics").replaceChildren();
  pill($("status"), "starting", "busy");
}

function refused(answer, told) {
  const detail = told.detail ?? told;
  pill($("status"), `${answer.status}`, "bad");
  $("output").replaceChildren(make("span", { className: "dim", textContent: "It did not run." }));
  let left = Array.isArray(detail) ? [] : [detail];
  for (const d of Array.isArray(detail) ? detail : []) {
    const field = fields.find((f) => (d.loc || []).includes(f.name));
    if (field) say(field, d.msg); else left.push([d]);
  }
  trouble(left.map((d) => `${answer.status}: ${words(d)}`).join("\n"));
}

async function run() {
  if (running) return;
  clearWrong();
  const input = read();
  if (input === null) return;
  begin();
  const id = "docs-" + [...crypto.getRandomValues(new Uint8Array(12))].map((b) => b.toString(16).padStart(2, "0")).join("");
  running = { id, kind, since: performance.now(), ended: false };
  $("run").disabled = true;
  $("cancel").hidden = $("cancel").disabled = false;
  $("cancel").disabled = false;
  const clock = setInterval(() => { $("took").textContent = `${((performance.now() - running.since) / 1000).toFixed(1)} s`; }, 100);
  try {
    const answer = await ask(`/${kind}s`, { method: "POST", body: JSON.stringify({ id, input }),
      headers: { "content-type": "application/json", accept: "text/event-stream" } });
    if (answer.ok) await follow(answer); else refused(answer, await answer.json());
    if (answer.ok && !running.ended) throw new Error("the connection ended before the prediction did");
  } catch (e) {
    trouble(String(e.message || e));
    pill($("status"), "lost", "bad");
  } finally {
    clearInterval(clock);
    $("took").textContent = `${((performance.now() - running.since) / 1000).toFixed(2)} s`;
    running = null;
    $("run").disabled = false;
    $("cancel").hidden = true;
    $("output").classList.remove("runs");
    health();
  }
}

async function cancel() {
  if (!running) return;
  $("cancel").disabled = true;
  const answer = await ask(`/${running.kind}s/${running.id}/cancel`, { method: "POST" });
  if (!answer.ok) { trouble(`cancel: ${answer.status}`); $("cancel").disabled = false; }
}

// -- the page -----------------------------------------------------------------------------------------------------------

async function health() {
  try {
    const answer = await ask("/health-check");
    if (!answer.ok) return pill($("health"), answer.status === 401 ? "TOKEN NEEDED" : String(answer.status), "bad");
    const told = await answer.json();
    pill($("health"), told.status, told.status === "READY" ? "good" : ["BUSY", "STARTING"].includes(told.status) ? "busy" : "bad");
    if (told.status === "SETUP_FAILED") trouble(`The setup failed.\n${(told.setup || {}).logs || ""}`);
    return told.status;
  } catch {
    pill($("health"), "UNREACHABLE", "bad");
  }
}

function routes() {
  const rows = Object.entries(document_.paths || {}).flatMap(([path, methods]) =>
    Object.entries(methods).filter(([m]) => ["get", "put", "post"].includes(m)).map(([m, about]) =>
      make("tr", {}, make("td", { textContent: m.toUpperCase() }), make("td", { textContent: path }), make("td", { textContent: about.summary || "" }))));
  $("routes").replaceChildren(...rows);
}

async function load() {
  const answer = await ask("/openapi.json").catch(() => null);
  if (!answer || answer.status === 503) { await health(); setTimeout(load, 1000); return; }
  if (!answer.ok) { trouble(words((await answer.json()).detail)); health(); return; }
  trouble("");
  document_ = await answer.json();
  const info = document_.info || {};
  $("name").textContent = document.title = info.title || "soma";
  $("version").textContent = info.version ? `version ${info.version}` : "";
  $("kinds").hidden = !document_.components.schemas.TrainingInput;
  draw();
  routes();
  health();
}

$("form").addEventListener("submit", (e) => { e.preventDefault(); run(); });
$("form").addEventListener("input", showCommand);
$("cancel").addEventListener("click", cancel);
$("reset").addEventListener("click", defaults);
$("token").value = token;
$("token").addEventListener("change", () => { token = $("token").value; sessionStorage.setItem("token", token); load(); });
$("token-row").addEventListener("submit", (e) => { e.preventDefault(); $("token").blur(); });
document.addEventListener("keydown", (e) => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); run(); } });
for (const button of $("kinds").children) {
  button.addEventListener("click", () => {
    kind = button.dataset.kind;
    for (const other of $("kinds").children) other.classList.toggle("on", other === button);
    draw();
  });
}
setInterval(() => { if (!document.hidden && !running) health(); }, 5000);
load();
