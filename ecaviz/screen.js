// The picture of an explorer in the browser: frames by what the controls say, so that one that is here is shown at once.
// The kernel's side, and what the messages mean, is screen.py.

const LATE = 250; // milliseconds without an answer until "computing …" is shown
const REST = 200; // milliseconds without a move until a fine frame takes the place of a quick one
const PAPER = { light: "#ffffff", dark: "#111111" };

// What a control says; the same words as token() of screen.py.
function token(control) {
  const index = control.get("index");
  const value = index === undefined ? control.get("value") : index;
  return typeof value === "number" ? String(Number(value.toPrecision(12))) : String(value);
}

function pageIsDark() {
  const said = document.body.dataset.jpThemeLight;
  if (said !== undefined) return said === "false";
  const paper = getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g)?.map(Number) ?? [];
  return paper.length >= 3 && paper[3] !== 0 && paper[0] + paper[1] + paper[2] < 384;
}

function save(content, bytes) {
  if (window.ecavizSaved === content.id) return; // another view of this explorer has done it
  window.ecavizSaved = content.id;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type: content.type }));
  link.download = content.save;
  document.body.append(link); // some notebooks listen there for what is saved
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "ecaviz-screen";
  const image = document.createElement("img");
  image.className = "widget-image";
  const wait = document.createElement("span");
  wait.className = "ecaviz-wait";
  wait.setAttribute("role", "status");
  box.append(image, wait);
  el.append(box);

  const names = model.get("controls").map((name) => name.slice("IPY_MODEL_".length));
  const controls = await Promise.all(names.map((name) => model.widget_manager.get_model(name)));
  const key = () => [...controls.map(token), model.get("rest")].join("|");
  const quick = new Map(); // key → address of the picture
  const fine = new Map(); // the same, of pictures of more pixels
  const asks = new Set(); // keys that the kernel was asked for
  let last = null;
  let answers = -1;
  const loose = new Set(); // keys of frames that are not whole: the kernel does not keep them
  let shown = null;
  let dark = false; // whether what is shown is drawn for a dark page
  let timer = 0;
  let rest = 0;

  // The quick frame of a key, and when nothing has moved for a while its fine one.
  function put(name) {
    clearTimeout(rest);
    if (name !== shown || !fine.has(name)) image.src = quick.get(name) ?? fine.get(name);
    if (name !== shown) dark = model.get("dark");
    shown = name;
    setPaper();
    rest = setTimeout(() => {
      if (fine.has(name)) image.src = fine.get(name);
    }, REST);
  }

  // The margins are transparent.
  function setPaper() {
    image.style.background = dark === pageIsDark() ? "" : PAPER[dark ? "dark" : "light"];
  }

  const has = (name) => quick.has(name) || fine.has(name);

  function keep(name, bytes, where) {
    const before = where.get(name);
    where.set(name, URL.createObjectURL(new Blob([bytes], { type: "image/png" })));
    if (image.src === before) image.src = where.get(name);
    else if (name === shown) put(name);
    if (before !== undefined) URL.revokeObjectURL(before);
  }

  function drop(name) {
    if (name === shown) return;
    for (const where of [quick, fine]) {
      if (where.has(name)) URL.revokeObjectURL(where.get(name));
      where.delete(name);
    }
  }

  function answered() {
    clearTimeout(timer);
    wait.textContent = "";
    box.removeAttribute("aria-busy");
  }

  function asked() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      wait.textContent = "computing …";
      box.setAttribute("aria-busy", "true");
    }, LATE);
  }

  function moved() {
    if (has(key())) put(key());
    else asked();
  }

  function follow() {
    const name = has(key()) ? key() : model.get("key"); // the user may be further than the kernel
    if (has(name)) {
      if (name !== shown) put(name);
    } else if (!asks.has(name)) {
      asks.add(name);
      model.send({ want: name }); // sent before this page was opened
    }
  }

  function told() {
    const sent = model.get("frame_key");
    if (model.get("frame") !== last) {
      last = model.get("frame");
      keep(sent, last, quick);
      if (model.get("partial")) loose.add(sent);
      else loose.delete(sent);
    }
    follow();
    for (const name of loose) {
      if (name === sent || name === shown) continue;
      drop(name);
      loose.delete(name);
    }
    if (model.get("answers") !== answers) {
      answers = model.get("answers");
      if (model.get("partial")) asked();
      else answered();
    } else if (!model.get("partial") && key() === model.get("key")) answered();
    image.style.width = `${model.get("width")}px`;
    image.alt = model.get("alt");
    setPaper();
  }

  function message(content, buffers) {
    if (content.ahead) {
      keep(content.ahead, buffers[0], content.fine ? fine : quick);
      if (asks.delete(content.ahead)) follow();
    }
    if (content.drop) content.drop.forEach(drop);
    if (content.save) save(content, buffers[0]);
  }

  function seen() {
    if (model.get("page_dark") === pageIsDark()) return;
    model.set("page_dark", pageIsDark());
    model.save_changes();
  }

  // JupyterLab would take plain keys for its cells: arrows in a list, and letters, one of which cuts the cell.
  const leave = new AbortController();
  function keepPlainKeys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = event.key.startsWith("Arrow") && event.target.matches("select");
    if (arrow || event.key.length === 1 || (event.key === "Enter" && !event.shiftKey)) event.stopPropagation();
  }
  function attach(tries = 100) {
    const explorer = el.closest(".ecaviz-explorer");
    if (explorer) explorer.addEventListener("keydown", keepPlainKeys, { signal: leave.signal });
    else if (tries > 0 && !leave.signal.aborted) setTimeout(attach, 50, tries - 1);
  }
  attach();

  controls.forEach((control) => control.on("change:value change:index", moved));
  model.on("change", told);
  model.on("msg:custom", message);
  const watch = new MutationObserver(seen);
  watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  told();
  seen();
  model.send({ open: true });
  return () => {
    clearTimeout(timer);
    clearTimeout(rest);
    leave.abort();
    watch.disconnect();
    controls.forEach((control) => control.off("change:value change:index", moved));
    model.off("change", told);
    model.off("msg:custom", message);
    for (const where of [quick, fine]) where.forEach((url) => URL.revokeObjectURL(url));
  };
}

export default { render };
