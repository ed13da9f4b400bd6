// The picture of an explorer in the browser: frames by what the controls say, so that one that is here is shown at once.
// The kernel's side, and what the messages mean, is screen.py.

const LATE = 250; // milliseconds without an answer until "computing …" is shown
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
  link.click();
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
  const frames = new Map(); // key → address of the picture
  let last = null;
  let timer = 0;

  function put(url) {
    if (image.src !== url) image.src = url;
  }

  function keep(name, bytes) {
    const before = frames.get(name);
    const url = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
    frames.set(name, url);
    if (before === undefined) return;
    if (image.src === before) put(url);
    URL.revokeObjectURL(before);
  }

  function drop(name) {
    const url = frames.get(name);
    if (url === undefined || image.src === url) return;
    URL.revokeObjectURL(url);
    frames.delete(name);
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
    const url = frames.get(key());
    if (url !== undefined) put(url);
    else asked();
  }

  function told() {
    if (model.get("frame") !== last) {
      last = model.get("frame");
      keep(model.get("frame_key"), last);
    }
    const own = frames.get(key()); // the user may be further than the kernel
    const url = own ?? frames.get(model.get("key"));
    if (url !== undefined) put(url);
    else model.send({ want: model.get("key") }); // sent before this page was opened
    if (model.get("partial")) asked();
    else answered();
    image.style.width = `${model.get("width")}px`;
    image.alt = model.get("alt");
    image.style.background = model.get("dark") === pageIsDark() ? "" : PAPER[model.get("dark") ? "dark" : "light"];
  }

  function message(content, buffers) {
    if (content.ahead) keep(content.ahead, buffers[0]);
    if (content.drop) content.drop.forEach(drop);
    if (content.save) save(content, buffers[0]);
  }

  function seen() {
    if (model.get("page_dark") === pageIsDark()) return;
    model.set("page_dark", pageIsDark());
    model.save_changes();
  }

  controls.forEach((control) => control.on("change:value change:index", moved));
  model.on("change", told);
  model.on("msg:custom", message);
  const watch = new MutationObserver(seen);
  watch.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  told();
  seen();
  return () => {
    clearTimeout(timer);
    watch.disconnect();
    controls.forEach((control) => control.off("change:value change:index", moved));
    model.off("change", told);
    model.off("msg:custom", message);
    frames.forEach((url) => URL.revokeObjectURL(url));
  };
}

export default { render };
