// From grey levels, a map of margins and cells of heat to pixels. Pure: arrays in, arrays out.
// shader.js does the same on a graphics card; tests hold the two within two grey levels.

const WHITE = 65535; // grey levels have 16 bits here, whatever the file had

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
    const from = levels.at(-1).values, w = width >> 1, h = height >> 1;
    const half = new Uint16Array(w * h);
    for (let y = 0; y < h; y++) {
      const top = 2 * y * width, bottom = top + width;
      for (let x = 0; x < w; x++) {
        const i = 2 * x;
        half[y * w + x] = (from[top + i] + from[top + i + 1] + from[bottom + i] + from[bottom + i + 1] + 2) >> 2;
      }
    }
    levels.push({ values: half, width: w, height: h });
    [width, height] = [w, h];
  }
  return levels;
}

// What a masking keeps, 0..255: its map of margins up to a limit, its edge softened over about two
// pixels, so that it is no staircase when zoomed. Drawn as kept where it reaches a half.
function keptOf({ width, height, values }, limit) {
  const across = new Uint8Array(values.length), kept = new Uint8Array(values.length);
  const at = (i) => (values[i] <= limit ? 1 : 0);
  for (let y = 0; y < height; y++) {
    const first = y * width, last = first + width - 1;
    for (let i = first; i <= last; i++) across[i] = at(Math.max(first, i - 1)) + 2 * at(i) + at(Math.min(last, i + 1));
  }
  for (let y = 0; y < height; y++) {
    const up = Math.max(0, y - 1) * width, here = y * width, down = Math.min(height - 1, y + 1) * width;
    for (let x = 0; x < width; x++) kept[here + x] = Math.round((255 / 16) * (across[up + x] + 2 * across[here + x] + across[down + x]));
  }
  return { width, height, values: kept };
}

// How steep the edge of what is kept is drawn: over about one pixel of the pane, and never over less
// than a card can tell.
const edgeOf = (at, picture, kept) => 0.5 * Math.min(1, Math.max(0.02, kept.width / (picture.width * at.scale)));

// Along which axis of a pane those of the picture run, how fast, and from where.
function ways(at, width, height) {
  return at.a !== 0
    ? { isTurned: false, x: [width, at.a, at.e], y: [height, at.d, at.f] }
    : { isTurned: true, x: [height, at.b, at.f], y: [width, at.c, at.e] };
}

// For every pixel of a pane along one axis: its two neighbours on a grid, and how far between. `way`
// is of `ways`, `size` the picture's; `from` and `share` say on which part of the grid it lies.
function axis([length, step, offset], size, count, from = 0, share = 1) {
  const low = new Int32Array(length), high = new Int32Array(length), part = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    const at = (from + ((i + 0.5 - offset) / step / size) * share) * count - 0.5;
    const clamped = Math.min(count - 1, Math.max(0, at));
    low[i] = Math.floor(clamped);
    high[i] = Math.min(count - 1, low[i] + 1);
    part[i] = clamped - low[i];
  }
  return { low, high, part };
}

// Which level of a pyramid is drawn, and how far to both sides of a pixel's middle it is looked at,
// in pixels of that level. Of a level that is `r` times as fine as the pane, 1 <= r < 2, the mean of
// two places (r - 1) / 2 off is sharp and without aliases; one and one, and two and one, are exact.
function levelFor(at, picture, pyramid) {
  const ratio = pyramid[0].width / (picture.width * at.scale);
  const level = Math.min(pyramid.length - 1, Math.max(0, Math.floor(Math.log2(ratio) + 1e-6)));
  return { level, off: Math.min(0.5, Math.max(0, (ratio / 2 ** level - 1) / 2)) };
}

// The picture's grey levels 0..65535 as they lie in a pane; what lies beside it is not meant to be
// looked at.
function resampled(pyramid, width, height, at, picture) {
  const { level, off } = levelFor(at, picture, pyramid);
  const { values, width: columns, height: rows } = pyramid[level];
  const { isTurned, x, y } = ways(at, width, height);
  const shifted = ([length, step, offset], size, count, by) => axis([length, step, offset - (by * step * size) / count], size, count);
  const taps = off > 0 ? [-off, off] : [0];
  const ax = taps.map((by) => shifted(x, picture.width, columns, by));
  const ay = taps.map((by) => shifted(y, picture.height, rows, by));
  // Across first, for the rows that are looked at.
  const first = Math.min(...ay.map(({ low }) => Math.min(low[0], low.at(-1))));
  const last = Math.max(...ay.map(({ high }) => Math.max(high[0], high.at(-1))));
  const [across, down] = [x[0], y[0]], weight = 1 / taps.length;
  const strip = new Float32Array(across * (last - first + 1));
  for (let r = first; r <= last; r++) {
    const row = r * columns, to = (r - first) * across;
    for (const { low, high, part } of ax) {
      for (let i = 0; i < across; i++) {
        const below = values[row + low[i]];
        strip[to + i] += weight * (below + part[i] * (values[row + high[i]] - below));
      }
    }
  }
  const out = new Float32Array(width * height);
  const [stepAcross, stepDown] = isTurned ? [width, 1] : [1, width];
  for (const { low, high, part } of ay) {
    for (let j = 0; j < down; j++) {
      const upper = (low[j] - first) * across, lower = (high[j] - first) * across, fy = part[j];
      for (let i = 0, k = j * stepDown; i < across; i++, k += stepAcross) {
        out[k] += weight * (strip[upper + i] + fy * (strip[lower + i] - strip[upper + i]));
      }
    }
  }
  return out;
}

// What a grey level 0..65535 is shown as, 0..255. `level` and `width` are shares of the range.
function shade(grey, { level, width, invert }) {
  const share = Math.min(1, Math.max(0, (grey / WHITE - level + width / 2) / width));
  return 255 * (invert ? 1 - share : share);
}

// What each of the 65536 grey levels is shown as.
function shadesOf(window) {
  const shades = new Float32Array(WHITE + 1);
  for (let v = 0; v <= WHITE; v++) shades[v] = shade(v, window);
  return shades;
}

// One row of a grid, between two of its own.
function rowBetween(values, columns, { low, high, part }, j, row) {
  const upper = columns * low[j], lower = columns * high[j], fy = part[j];
  for (let c = 0; c < columns; c++) row[c] = values[upper + c] + fy * (values[lower + c] - values[upper + c]);
}

// The pixels of a way whose middles lie on the picture: from the first up to, without, the last.
function onPictureAlong([length, step, offset], size) {
  const [a, b] = [offset, offset + step * size].sort((p, q) => p - q);
  return [Math.max(0, Math.ceil(a - 0.5)), Math.min(length, Math.floor(b - 0.5) + 1)];
}

// Whether a place, as shares of the picture, is drawn as kept.
function isKept({ width, height, values }, [x, y]) {
  const [column, row] = [Math.floor(x * width), Math.floor(y * height)];
  return values[Math.min(height - 1, row) * width + Math.min(width - 1, column)] >= 127.5;
}

// One pane's pixels, RGBA. The X-ray's own brightness depends on the window alone; heat is laid
// over it. Heat is not cut off at the lungs: that would hide exactly what a reader should see. It is
// cut off at what was kept where it is confined to that.
//
//   source   of `resampled`
//   at       of `placed`
//   picture  {width, height}
//   window   {level, width, invert}
//   kept     null, or of `keptOf`
//   fill     level 0..1 of what is not kept; null: the picture stays
//   heat     null, or {rows, columns, cells, content, confined, peak, opacity, ramp, colours}; the
//            ramp: heat is clear up to the one share of the peak, at full opacity from the other
function compose({ source, width, height, at, picture, window, kept, fill, heat }) {
  const BLACK = 0xff000000, GREY = 0x010101;
  const pixels = new Uint32Array(width * height).fill(BLACK);
  const { isTurned, x: wayX, y: wayY } = ways(at, width, height);
  const { width: w, height: h } = picture;
  const shades = shadesOf(window), colours = heat && blendsOf(heat), steps = heat && (BLENDS - 1) / heat.peak;
  const kx = kept && axis(wayX, w, kept.width), ky = kept && axis(wayY, h, kept.height);
  const hx = heat && axis(wayX, w, heat.columns, heat.content[0], heat.content[2]);
  const hy = heat && axis(wayY, h, heat.rows, heat.content[1], heat.content[3]);
  const keptRow = kept && new Float32Array(kept.width), heatRow = heat && new Float32Array(heat.columns);
  const steep = kept && 1 / (255 * edgeOf(at, picture, kept));
  const isFilled = fill !== null, removed = isFilled ? shade(WHITE * fill, window) : 0;
  const [firstX, endX] = onPictureAlong(wayX, w), [firstY, endY] = onPictureAlong(wayY, h);
  const [stepX, stepY] = isTurned ? [width, 1] : [1, width];
  for (let j = firstY; j < endY; j++) {
    if (kept) rowBetween(kept.values, kept.width, ky, j, keptRow);
    if (heat) rowBetween(heat.cells, heat.columns, hy, j, heatRow);
    for (let i = firstX, k = j * stepY + firstX * stepX; i < endX; i++, k += stepX) {
      let g = shades[source[k] | 0], inside = 1;
      if (kept) {
        const low = keptRow[kx.low[i]];
        inside = (low + kx.part[i] * (keptRow[kx.high[i]] - low) - 127.5) * steep + 0.5;
        inside = inside >= 1 ? 1 : inside <= 0 ? 0 : inside;
        if (isFilled) g = removed + inside * (g - removed);
      }
      if (heat && (inside > 0 || !heat.confined)) {
        const low = heatRow[hx.low[i]], value = steps * (low + hx.part[i] * (heatRow[hx.high[i]] - low));
        const to = 4 * (value < BLENDS - 1 ? (value + 0.5) | 0 : BLENDS - 1), share = heat.confined ? inside : 1;
        const under = g * (1 - share * colours[to + 3]) + 0.5;
        pixels[k] = BLACK | ((under + share * colours[to + 2]) << 16) | ((under + share * colours[to + 1]) << 8) | (under + share * colours[to]);
      } else pixels[k] = BLACK | (((g + 0.5) | 0) * GREY);
    }
  }
  return new Uint8ClampedArray(pixels.buffer);
}

// What a level of heat puts over a pixel, from none to the peak: R, G and B times their opacity,
// and the opacity, of so many levels. Their steps are finer than those of a screen.
const BLENDS = 4096;
function blendsOf({ opacity, ramp: [from, full], colours }) {
  const blends = new Float32Array(4 * BLENDS);
  for (let i = 0; i < BLENDS; i++) {
    const share = i / (BLENDS - 1), alpha = opacity * Math.min(1, Math.max(0, (share - from) / (full - from)));
    const entry = Math.min(254, Math.floor(255 * share)), part = 255 * share - entry;
    for (let c = 0; c < 3; c++) {
      const below = colours[3 * entry + c];
      blends[4 * i + c] = alpha * (below + part * (colours[3 * entry + 3 + c] - below));
    }
    blends[4 * i + 3] = alpha;
  }
  return blends;
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
