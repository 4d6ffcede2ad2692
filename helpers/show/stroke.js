// Ink (levels 0 to 255, row by row) along a line from a to b, places in pixels: about two pixels wide, as MNIST's digits have it; or rubbed out.
function stroke(ink, width, a, b, rub) {
  const way = [b[0] - a[0], b[1] - a[1]], length = way[0] ** 2 + way[1] ** 2;
  for (let i = 0; i < ink.length; i++) {
    const x = (i % width) + 0.5 - a[0], y = Math.floor(i / width) + 0.5 - a[1];
    const share = length ? Math.min(1, Math.max(0, (x * way[0] + y * way[1]) / length)) : 0;
    const far = Math.hypot(x - share * way[0], y - share * way[1]);
    if (rub) ink[i] = far < 1.8 ? 0 : ink[i];
    else ink[i] = Math.max(ink[i], Math.round(255 * Math.min(1, Math.max(0, 1.9 - far))));
  }
}
