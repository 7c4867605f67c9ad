// From grey levels, a map of margins and cells of heat to pixels. Pure: arrays in, arrays out.

// What each of 256 grey levels is shown as. `level` and `width` are shares of the grey range.
function greyTable({ level, width, invert }) {
  const table = new Uint8ClampedArray(256);
  for (let v = 0; v < 256; v++) {
    const share = Math.min(1, Math.max(0, (v / 255 - level + width / 2) / width));
    table[v] = Math.round(255 * (invert ? 1 - share : share));
  }
  return table;
}

// For every pixel of a pane along one axis: its two neighbours on a coarser grid, and how far
// between. `from` and `share` say which part of the grid the picture lies on.
function axis(length, scale, offset, size, count, from = 0, share = 1) {
  const low = new Int32Array(length), high = new Int32Array(length), part = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    const at = (from + ((i + 0.5 - offset) / scale / size) * share) * count - 0.5;
    const clamped = Math.min(count - 1, Math.max(0, at));
    low[i] = Math.floor(clamped);
    high[i] = Math.min(count - 1, low[i] + 1);
    part[i] = clamped - low[i];
  }
  return { low, high, part };
}

// Bilinear, at one pixel of a pane.
function sample(values, columns, ax, ay, x, y) {
  const top = columns * ay.low[y], bottom = columns * ay.high[y], fx = ax.part[x];
  const upper = values[top + ax.low[x]] * (1 - fx) + values[top + ax.high[x]] * fx;
  const lower = values[bottom + ax.low[x]] * (1 - fx) + values[bottom + ax.high[x]] * fx;
  return upper * (1 - ay.part[y]) + lower * ay.part[y];
}

// One pane's pixels, RGBA. The X-ray's own brightness depends on the table alone; heat is laid over
// it, and is not cut off at the mask: that would hide exactly what a reader should see.
//
//   source   RGBA of the X-ray as it lies in the pane, grey
//   table    of greyTable
//   picture  {width, height}, and `at` where it lies in the pane
//   mask     null, or {width, height, values, limit}: pixels whose value is above go black
//   heat     null, or {rows, columns, cells, content, peak, opacity, colours}
function compose({ source, width, height, at, picture, table, mask, heat }) {
  const pixels = new Uint8ClampedArray(4 * width * height);
  const { width: w, height: h } = picture;
  const mx = mask && axis(width, at.scale, at.ox, w, mask.width);
  const my = mask && axis(height, at.scale, at.oy, h, mask.height);
  const hx = heat && axis(width, at.scale, at.ox, w, heat.columns, heat.content[0], heat.content[2]);
  const hy = heat && axis(height, at.scale, at.oy, h, heat.rows, heat.content[1], heat.content[3]);
  for (let y = 0; y < height; y++) {
    const v = (y + 0.5 - at.oy) / at.scale;
    for (let x = 0; x < width; x++) {
      const i = 4 * (y * width + x);
      pixels[i + 3] = 255;
      const u = (x + 0.5 - at.ox) / at.scale;
      if (u < 0 || v < 0 || u > w || v > h) continue;
      let g = table[source[i]];
      if (mask && sample(mask.values, mask.width, mx, my, x, y) > mask.limit) g = 0;
      if (!heat) {
        pixels[i] = pixels[i + 1] = pixels[i + 2] = g;
        continue;
      }
      const value = Math.min(1, sample(heat.cells, heat.columns, hx, hy, x, y) / heat.peak);
      const low = Math.min(254, Math.floor(255 * value)), part = 255 * value - low;
      const alpha = heat.opacity * value;
      for (let c = 0; c < 3; c++) {
        const below = heat.colours[3 * low + c], over = heat.colours[3 * low + 3 + c];
        pixels[i + c] = Math.round(g + alpha * (below + part * (over - below) - g));
      }
    }
  }
  return pixels;
}
