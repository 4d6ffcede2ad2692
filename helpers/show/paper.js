// A sheet to draw on: by mouse, finger or pen; with the shift key, or the right button, it rubs out.
// By keys: arrows move the pen, space puts it down and up, and x rubs out where it is.

function render({ model, el }) {
  const [height, width] = model.get("size"), zoom = Math.max(1, Math.floor(196 / height));
  const canvas = Object.assign(document.createElement("canvas"), { width: zoom * width, height: zoom * height, tabIndex: 0 });
  canvas.style.cssText = "touch-action: none; cursor: crosshair; border: 1px solid grey; max-width: 100%";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "A sheet to draw on: arrow keys move the pen, space puts it down or up, x rubs out");
  el.append(canvas);
  const context = canvas.getContext("2d");
  let ink, place = null, cursor = null, down = false, saved = 0;

  const paint = () => {
    for (let i = 0; i < ink.length; i++) {
      context.fillStyle = `rgb(${ink[i]}, ${ink[i]}, ${ink[i]})`;
      context.fillRect(zoom * (i % width), zoom * Math.floor(i / width), zoom, zoom);
    }
    if (!cursor) return;
    context.strokeStyle = down ? "limegreen" : "orange";
    context.lineWidth = 2;
    context.strokeRect(zoom * (cursor[0] - 0.5), zoom * (cursor[1] - 0.5), zoom, zoom);
  };

  const draw = (a, b, rub) => {
    stroke(ink, width, a, b, rub);
    paint();
  };

  const save = (now) => {
    if (!now && performance.now() - saved < 150) return;
    saved = performance.now();
    model.set("value", [...ink]);
    model.save_changes();
  };

  const show = () => {
    const value = model.get("value");
    ink = Uint8ClampedArray.from(value.length ? value : model.get("sheet"));
    paint();
  };

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(width * (event.clientX - box.left)) / box.width, (height * (event.clientY - box.top)) / box.height];
  };
  const rubs = (event) => event.shiftKey || (event.buttons & 2) > 0;
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    place = at(event);
    draw(place, place, rubs(event));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!place) return;
    const next = at(event);
    draw(place, next, rubs(event));
    place = next;
    save(false);
  });
  for (const ending of ["pointerup", "pointercancel"])
    canvas.addEventListener(ending, () => {
      if (place) save(true);
      place = null;
    });

  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], " ": [0, 0], x: [0, 0] };
  canvas.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    const from = cursor ?? [width / 2 + 0.5, height / 2 + 0.5];
    cursor = [Math.min(width - 0.5, Math.max(0.5, from[0] + move[0])), Math.min(height - 0.5, Math.max(0.5, from[1] + move[1]))];
    if (event.key === " ") down = !down;
    if (down || event.key === "x") {
      draw(from, cursor, event.key === "x");
      save(true);
    } else paint();
  });
  canvas.addEventListener("blur", () => {
    cursor = null;
    paint();
  });

  model.on("change:value", () => place || show());
  model.on("change:sheet", show);
  show();
}

export default { render };
