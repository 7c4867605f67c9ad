// Where things lie: pure functions of sizes and positions. No page, no state.
//
// "Picture" is in pixels of the picture as the server sent it, "pane" in pixels of a canvas. A pose
// is {turns, mirrored}: first mirrored left to right, then turned clockwise by so many quarters. It
// is part of the way from the one to the other, so that no pixel and no mark has to be turned.

const bounded = (value, low, high) => Math.min(high, Math.max(low, value));

// Where a picture lies in a pane: fitted, then zoomed about a point (x, y) off its middle. The answer
// is what a canvas' setTransform takes: pane = (a x + c y + e, b x + d y + f), and its scale.
function placed(picture, pane, { zoom, x, y, turns = 0, mirrored = false }) {
  const size = posedSize(picture, { turns });
  const scale = Math.min(pane.width / size.width, pane.height / size.height) * zoom;
  const [cos, sin] = [[1, 0], [0, 1], [-1, 0], [0, -1]][turns];
  const across = mirrored ? -scale : scale;
  const a = across * cos, b = across * sin, c = scale * (0 - sin), d = scale * cos;
  const u = picture.width / 2 + x, v = picture.height / 2 + y;
  return { scale, a, b, c, d, e: pane.width / 2 - a * u - c * v, f: pane.height / 2 - b * u - d * v };
}

const toPane = (at, [x, y]) => [at.a * x + at.c * y + at.e, at.b * x + at.d * y + at.f];

const toPicture = (at, [x, y]) => directionInPicture(at, [x - at.e, y - at.f]);

// A way in a pane, as a way in the picture.
function directionInPicture(at, [x, y]) {
  const square = at.scale * at.scale;
  return [(at.a * x + at.b * y) / square, (at.c * x + at.d * y) / square];
}

// Size of a picture in a pose.
function posedSize({ width, height }, { turns }) {
  return turns % 2 ? { width: height, height: width } : { width, height };
}

// The nearest point off the middle that leaves no room beside a zoomed picture.
function reachable(picture, zoom, x, y) {
  const reach = 0.5 * (1 - 1 / zoom);
  return {
    x: bounded(x, -reach * picture.width, reach * picture.width),
    y: bounded(y, -reach * picture.height, reach * picture.height),
  };
}

// What is seen of a picture in a pane, finely enough for both: its size, where the picture lies in
// it, and how many of its pixels are one of the pane's. What lies beside the picture is left out. No
// pixel of the pane takes less than `finest` of it, and none of the picture less than one, as long as
// no side is longer than `most`.
function seenOf(picture, pane, view, finest, most = 4096) {
  const at = placed(picture, pane, view);
  const corners = [toPane(at, [0, 0]), toPane(at, [picture.width, picture.height])];
  const [left, right] = corners.map(([x]) => bounded(x, 0, pane.width)).sort((a, b) => a - b);
  const [top, bottom] = corners.map(([, y]) => bounded(y, 0, pane.height)).sort((a, b) => a - b);
  const ratio = Math.min(Math.max(finest, 1 / at.scale), most / Math.max(right - left, bottom - top));
  const width = Math.max(1, Math.round((right - left) * ratio)), height = Math.max(1, Math.round((bottom - top) * ratio));
  const linear = Object.fromEntries(["scale", "a", "b", "c", "d"].map((key) => [key, at[key] * ratio]));
  return { width, height, ratio, at: { ...linear, e: (at.e - left) * ratio, f: (at.f - top) * ratio } };
}

// The box between two corners, in any order, cut off at the picture: [x0, y0, x1, y1].
function boxBetween(picture, a, b) {
  const across = [a[0], b[0]].map((x) => bounded(x, 0, picture.width));
  const down = [a[1], b[1]].map((y) => bounded(y, 0, picture.height));
  return [Math.min(...across), Math.min(...down), Math.max(...across), Math.max(...down)];
}

const isWithin = (picture, [x, y]) => x >= 0 && y >= 0 && x <= picture.width && y <= picture.height;

// The edges of a pane at which the patient's right and left lie: of a frontal image as sent the right
// is on the left, unless its sides are swapped.
function sideEdges({ turns, mirrored }, isSwapped) {
  const clockwise = ["left", "top", "right", "bottom"];
  const from = mirrored !== isSwapped ? 2 : 0;
  return { right: clockwise[(from + turns) % 4], left: clockwise[(from + turns + 2) % 4] };
}

// A closed polygon of x0, y0, x1, y1, ... as a line with rounded corners: per corner where its curve
// begins, the corner, and where it ends. Points are pixels, so their middles are meant. No curve
// begins further from its corner than `reach`, so that the line stays where it is.
function rounded(points, reach = 3) {
  const count = points.length / 2;
  const at = (i) => [points[2 * (i % count)] + 0.5, points[2 * (i % count) + 1] + 0.5];
  const towards = ([x, y], [u, v]) => {
    const long = Math.hypot(u - x, v - y), share = long ? Math.min(0.5, reach / long) : 0;
    return [x + share * (u - x), y + share * (v - y)];
  };
  return Array.from({ length: count }, (_, i) => {
    const corner = at(i);
    return [...towards(corner, at(i + count - 1)), ...corner, ...towards(corner, at(i + 1))];
  });
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
