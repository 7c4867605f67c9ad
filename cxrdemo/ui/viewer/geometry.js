// Where things lie: pure functions of sizes and positions. No page, no state.
//
// "Picture" is in pixels of the picture the server sent, "pane" in pixels of a canvas:
// pane = picture * scale + (ox, oy).

const bounded = (value, low, high) => Math.min(high, Math.max(low, value));

// Where a picture lies in a pane: fitted, then zoomed about a point (x, y) off its middle.
function placed(picture, pane, { zoom, x, y }) {
  const scale = Math.min(pane.width / picture.width, pane.height / picture.height) * zoom;
  return {
    scale,
    ox: pane.width / 2 - (picture.width / 2 + x) * scale,
    oy: pane.height / 2 - (picture.height / 2 + y) * scale,
  };
}

// The nearest point off the middle that leaves no room beside a zoomed picture.
function reachable(picture, zoom, x, y) {
  const reach = 0.5 * (1 - 1 / zoom);
  return {
    x: bounded(x, -reach * picture.width, reach * picture.width),
    y: bounded(y, -reach * picture.height, reach * picture.height),
  };
}

// The box between two corners, in any order, cut off at the picture: [x0, y0, x1, y1].
function boxBetween(picture, a, b) {
  const across = [a[0], b[0]].map((x) => bounded(x, 0, picture.width));
  const down = [a[1], b[1]].map((y) => bounded(y, 0, picture.height));
  return [Math.min(...across), Math.min(...down), Math.max(...across), Math.max(...down)];
}

// From the picture sent to the image as read, whose size is `native`: width, height.
function toNative(picture, [x, y]) {
  return [x * (picture.native[0] / picture.width), y * (picture.native[1] / picture.height)];
}

// Height of what polygons of x0, y0, x1, y1, ... enclose, in pixels, both ends counted.
function heightOf(polygons) {
  const ys = polygons.flat().filter((_, i) => i % 2);
  return Math.max(...ys) - Math.min(...ys) + 1;
}

const distanceBetween = (a, b) => Math.max(1, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY));

const middleOf = (a, b) => ({ clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 });
