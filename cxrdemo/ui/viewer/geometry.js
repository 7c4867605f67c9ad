// Where things lie: pure functions of sizes and positions. No page, no state.
//
// "Picture" is in pixels of the picture as it is shown, "sent" in pixels of the picture as the
// server sent it (they differ once the view is turned or mirrored), "pane" in pixels of a canvas:
// pane = picture * scale + (ox, oy). A pose is {turns, mirrored}: first mirrored left to right,
// then turned clockwise by so many quarters.

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

const isWithin = (picture, [x, y]) => x >= 0 && y >= 0 && x <= picture.width && y <= picture.height;

// ---- Poses ------------------------------------------------------------------------------------

// Size of a sent picture in a pose.
function posedSize({ width, height }, { turns }) {
  return turns % 2 ? { width: height, height: width } : { width, height };
}

function posedPoint([x, y], { width, height }, { turns, mirrored }) {
  if (mirrored) x = width - x;
  for (let i = 0; i < turns; i++) [x, y, width, height] = [height - y, x, height, width];
  return [x, y];
}

function unposedPoint([x, y], sent, pose) {
  let { width, height } = posedSize(sent, pose);
  for (let i = 0; i < pose.turns; i++) [x, y, width, height] = [y, width - x, height, width];
  return [pose.mirrored ? width - x : x, y];
}

// A grid of values, row by row, in a pose; of the same kind of array.
function posedGrid(values, size, pose) {
  if (!pose.turns && !pose.mirrored) return values;
  const { width, height } = posedSize(size, pose);
  const out = new values.constructor(values.length);
  const origin = unposedPoint([0.5, 0.5], size, pose);
  const right = unposedPoint([1.5, 0.5], size, pose), down = unposedPoint([0.5, 1.5], size, pose);
  const start = Math.floor(origin[0]) + Math.floor(origin[1]) * size.width;
  const across = right[0] - origin[0] + (right[1] - origin[1]) * size.width;
  const below = down[0] - origin[0] + (down[1] - origin[1]) * size.width;
  for (let y = 0; y < height; y++) {
    for (let x = 0, at = start + y * below; x < width; x++, at += across) out[y * width + x] = values[at];
  }
  return out;
}

// Polygons of x0, y0, x1, y1, ... in a pose. Their points are pixels, hence their centres are posed.
function posedPolygons(polygons, size, pose) {
  return polygons.map((points) => {
    const out = [];
    for (let i = 0; i < points.length; i += 2) {
      const [x, y] = posedPoint([points[i] + 0.5, points[i + 1] + 0.5], size, pose);
      out.push(x - 0.5, y - 0.5);
    }
    return out;
  });
}

// Heat in a pose: {rows, columns, cells, content: x, y, width, height as shares of the grid}.
function posedHeat(heat, pose) {
  const size = { width: heat.columns, height: heat.rows };
  const { width, height } = posedSize(size, pose);
  const [x, y, w, h] = heat.content;
  const unit = { width: 1, height: 1 };
  const corners = [posedPoint([x, y], unit, pose), posedPoint([x + w, y + h], unit, pose)];
  const left = Math.min(corners[0][0], corners[1][0]), top = Math.min(corners[0][1], corners[1][1]);
  const content = [left, top, Math.abs(corners[1][0] - corners[0][0]), Math.abs(corners[1][1] - corners[0][1])];
  return { rows: height, columns: width, cells: posedGrid(heat.cells, size, pose), content };
}

// The edges of the view at which the patient's right and left lie: of a frontal image as sent the
// right is on the left, unless its sides are swapped.
function sideEdges(pose, isSwapped) {
  const edge = ([x, y]) => (x < 0.25 ? "left" : x > 0.75 ? "right" : y < 0.25 ? "top" : "bottom");
  const unit = { width: 1, height: 1 };
  const [a, b] = [[0, 0.5], [1, 0.5]].map((point) => edge(posedPoint(point, unit, pose)));
  return isSwapped ? { right: b, left: a } : { right: a, left: b };
}

// ---- Lengths ------------------------------------------------------------------------------------

// From the picture sent to the image as read, whose size is `native`: width, height.
function toNative(sent, [x, y]) {
  return [x * (sent.native[0] / sent.width), y * (sent.native[1] / sent.height)];
}

// Height of what polygons of x0, y0, x1, y1, ... enclose, in pixels, both ends counted.
function heightOf(polygons) {
  let low = Infinity, high = -Infinity;
  for (const points of polygons) {
    for (let i = 1; i < points.length; i += 2) {
      low = Math.min(low, points[i]);
      high = Math.max(high, points[i]);
    }
  }
  return high - low + 1;
}

// The longest round length, in mm, that takes at most so many pixels: for a scale bar.
function roundLength(mmPerPixel, most) {
  const lengths = [1, 2, 5, 10, 20, 50, 100, 200, 500];
  return lengths.findLast((mm) => mm / mmPerPixel <= most) ?? null;
}

const distanceBetween = (a, b) => Math.max(1, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY));

const middleOf = (a, b) => ({ clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 });

// ---- Heat ---------------------------------------------------------------------------------------

// Where heat reaches a share of its scale: pairs of points, each [x0, y0, x1, y1] as shares of the
// picture. Marching squares on the bilinear map, `fine` steps to a cell.
function contourOf(heat, limit, fine = 6) {
  const [left, top, width, height] = heat.content;
  const across = Math.max(2, Math.round(heat.columns * width * fine));
  const down = Math.max(2, Math.round(heat.rows * height * fine));
  const values = new Float32Array((across + 1) * (down + 1));
  const at = (share, from, size, count) => bounded((from + share * size) * count - 0.5, 0, count - 1);
  for (let j = 0; j <= down; j++) {
    const y = at(j / down, top, height, heat.rows), y0 = Math.floor(y), y1 = Math.min(heat.rows - 1, y0 + 1), fy = y - y0;
    for (let i = 0; i <= across; i++) {
      const x = at(i / across, left, width, heat.columns), x0 = Math.floor(x), x1 = Math.min(heat.columns - 1, x0 + 1), fx = x - x0;
      const cell = (r, c) => heat.cells[r * heat.columns + c];
      const upper = cell(y0, x0) * (1 - fx) + cell(y0, x1) * fx, lower = cell(y1, x0) * (1 - fx) + cell(y1, x1) * fx;
      values[j * (across + 1) + i] = upper * (1 - fy) + lower * fy;
    }
  }
  const lines = [];
  for (let j = 0; j < down; j++) {
    for (let i = 0; i < across; i++) {
      const corner = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
      const level = corner.map(([x, y]) => values[y * (across + 1) + x]);
      const crossings = [];
      for (let k = 0; k < 4; k++) {
        const a = level[k], b = level[(k + 1) % 4];
        if (a >= limit === b >= limit) continue;
        const part = (limit - a) / (b - a), [p, q] = [corner[k], corner[(k + 1) % 4]];
        crossings.push([(p[0] + part * (q[0] - p[0])) / across, (p[1] + part * (q[1] - p[1])) / down]);
      }
      for (let k = 0; k + 1 < crossings.length; k += 2) lines.push([...crossings[k], ...crossings[k + 1]]);
    }
  }
  return lines;
}
