// From grey levels, a map of margins and cells of heat to pixels. Pure: arrays in, arrays out.
// shader.js does the same on a graphics card; tests hold the two within two grey levels.

const WHITE = 65535; // grey levels have 16 bits here, whatever the file had
const HEAT_FROM = 0.2, HEAT_FULL = 0.65; // heat is clear below the one and at full opacity from the other

// Grey levels from RGBA: R is the upper byte, G the lower one; a picture of 8 bits has only grey.
function greyLevels(rgba, isDeep) {
  const values = new Uint16Array(rgba.length / 4);
  if (isDeep) for (let i = 0; i < values.length; i++) values[i] = 256 * rgba[4 * i] + rgba[4 * i + 1];
  else for (let i = 0; i < values.length; i++) values[i] = 257 * rgba[4 * i];
  return values;
}

// The picture and its halves, quarters ...: each pixel of a level is the mean of four of the one
// before. An odd last row or column is left out, as graphics cards want it.
function pyramidOf(values, width, height) {
  const levels = [{ values, width, height }];
  while (Math.min(width, height) > 64) {
    const from = levels.at(-1), w = width >> 1, h = height >> 1;
    const half = new Uint16Array(w * h);
    for (let y = 0; y < h; y++) {
      const top = 2 * y * width, bottom = top + width;
      for (let x = 0; x < w; x++) {
        const i = 2 * x, at = from.values;
        half[y * w + x] = (at[top + i] + at[top + i + 1] + at[bottom + i] + at[bottom + i + 1] + 2) >> 2;
      }
    }
    levels.push({ values: half, width: w, height: h });
    [width, height] = [w, h];
  }
  return levels;
}

// For every pixel of a pane along one axis: its two neighbours on another grid, and how far
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

// Which levels of a pyramid a scale is drawn from: the one below, and the share of the one above.
function levelFor(scale, count) {
  const at = Math.min(count - 1, Math.max(0, Math.log2(1 / scale)));
  return { low: Math.floor(at), part: at - Math.floor(at) };
}

// The picture's grey levels 0..65535 as they lie in a pane; what lies beside it is not meant to be
// looked at.
function resampled(pyramid, width, height, at, picture) {
  const { low, part } = levelFor(at.scale, pyramid.length);
  const out = new Float32Array(width * height);
  const add = (level, weight) => {
    const ax = axis(width, at.scale, at.ox, picture.width, level.width);
    const ay = axis(height, at.scale, at.oy, picture.height, level.height);
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) out[i] += weight * sample(level.values, level.width, ax, ay, x, y);
    }
  };
  add(pyramid[low], 1 - part);
  if (part) add(pyramid[low + 1], part);
  return out;
}

// What a grey level 0..65535 is shown as, 0..255. `level` and `width` are shares of the range.
function shade(grey, { level, width, invert }) {
  const share = Math.min(1, Math.max(0, (grey / WHITE - level + width / 2) / width));
  return 255 * (invert ? 1 - share : share);
}

// One pane's pixels, RGBA. The X-ray's own brightness depends on the window alone; heat is laid
// over it, and is not cut off at the mask: that would hide exactly what a reader should see.
//
//   source   of `resampled`
//   picture  {width, height}, and `at` where it lies in the pane
//   window   {level, width, invert}
//   mask     null, or {width, height, values, limit, fill}: pixels whose value is above the limit
//            get the fill, 0..1
//   heat     null, or {rows, columns, cells, content, peak, opacity, colours}
function compose({ source, width, height, at, picture, window, mask, heat }) {
  const pixels = new Uint8ClampedArray(4 * width * height);
  const { width: w, height: h } = picture;
  const fill = mask && shade(WHITE * mask.fill, window);
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
      let g = shade(source[i / 4], window);
      if (mask && sample(mask.values, mask.width, mx, my, x, y) > mask.limit) g = fill;
      const value = heat ? Math.min(1, sample(heat.cells, heat.columns, hx, hy, x, y) / heat.peak) : 0;
      if (value <= HEAT_FROM) {
        pixels[i] = pixels[i + 1] = pixels[i + 2] = Math.round(g);
        continue;
      }
      const low = Math.min(254, Math.floor(255 * value)), part = 255 * value - low;
      const alpha = heat.opacity * Math.min(1, (value - HEAT_FROM) / (HEAT_FULL - HEAT_FROM));
      for (let c = 0; c < 3; c++) {
        const below = heat.colours[3 * low + c], over = heat.colours[3 * low + 3 + c];
        pixels[i + c] = Math.round(g + alpha * (below + part * (over - below) - g));
      }
    }
  }
  return pixels;
}

// The window that shows a part of the picture from its darkest to its brightest hundredth:
// {level, width} as shares of the range. `isPart` says which pixels count.
function windowOf(values, isPart) {
  const counts = new Uint32Array(1024);
  let total = 0;
  for (let i = 0; i < values.length; i++) {
    if (!isPart(i)) continue;
    counts[values[i] >> 6]++;
    total++;
  }
  if (!total) return { level: 0.5, width: 1 };
  const quantile = (share) => {
    let seen = 0;
    for (let k = 0; k < 1024; k++) if ((seen += counts[k]) >= share * total) return (k + 0.5) / 1024;
    return 1;
  };
  const low = quantile(0.01), high = quantile(0.99);
  return { level: (low + high) / 2, width: Math.max(0.05, high - low) };
}
