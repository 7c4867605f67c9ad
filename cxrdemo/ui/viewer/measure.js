// Lengths and grey values in the file's own units, and windows by name. Pure: no page, no state.

// A share of the grey range 0..1 as the file's own value, where `range` tells what 0 and 1 stand
// for; else as a percentage.
function valueText(share, range) {
  return range ? valueIn(range, share) : `${(100 * share).toFixed(1)} %`;
}

// As many digits as tell a thousandth of the range.
function valueIn([low, high], share) {
  const digits = bounded(3 - Math.floor(Math.log10(Math.abs(high - low))), 0, 4);
  return (low + share * (high - low)).toFixed(Math.abs(high - low) >= 1000 ? 0 : digits);
}

// Such as "C 2048 W 4096", or "C 50 % W 100 %".
function windowInWords({ level, width, invert }, range) {
  const text = range
    ? `C ${valueIn(range, level)} W ${valueIn([0, Math.abs(range[1] - range[0])], width)}`
    : `C ${Math.round(100 * level)} % W ${Math.round(100 * width)} %`;
  return invert ? `${text} inverted` : text;
}

// A length on the picture; in mm only where the file gives a spacing, which is the detector's.
function lengthInWords([[x0, y0], [x1, y1]], { spacing, native, width, height }) {
  if (spacing) {
    const mm = spacing * Math.hypot(x1 - x0, y1 - y0);
    return `${mm.toFixed(mm < 20 ? 1 : 0)} mm at the detector`;
  }
  return `${Math.round(Math.hypot((x1 - x0) * (native[0] / width), (y1 - y0) * (native[1] / height)))} px`;
}

// What lies at a point of the picture: column and row of the file's grid, and its value.
function pointInWords([x, y], levels, picture) {
  if (!isWithin(picture, [x, y]) || x === picture.width || y === picture.height) return "";
  const [u, v] = toNative(picture, [x, y]).map(Math.floor);
  const column = Math.floor((x / picture.width) * levels.width), row = Math.floor((y / picture.height) * levels.height);
  return `${u}, ${v}: ${valueText(levels.values[row * levels.width + column] / WHITE, picture.range)}`;
}

// The levels that a reader chooses a window for: "lungs", or "bone", which is what lies between and
// beside them. Of a picture without a mask all counts, or its brighter half.
function windowFor(part, levels, map, count) {
  const { values, width, height } = levels;
  if (!map) {
    const whole = windowOf(values, () => true);
    return part === "lungs" ? whole : { level: whole.level + whole.width / 4, width: whole.width / 2 };
  }
  return windowOf(values, (i) => {
    const x = Math.floor((((i % width) + 0.5) / width) * map.width), y = Math.floor(((Math.floor(i / width) + 0.5) / height) * map.height);
    const margin = map.values[y * map.width + x];
    return part === "lungs" ? margin === 0 : margin > 0 && margin <= count;
  });
}

// Whether what is looked at needs more than the picture first sent: its native pixels, because one of
// its own takes more than one of the screen, or more than 8 bits, because the window is narrow.
function needsFine({ width, native, bits }, window, scale) {
  return (scale > 1 && native[0] > width) || (bits > 8 && window.width < 0.6);
}

// What is on the screen, and of how much.
function sizeInWords({ native, bits }, shown, isFine) {
  const size = (width, height) => `${width} × ${height} px`;
  if (shown.width >= native[0] && (isFine || bits <= 8)) return `${size(...native)}, ${bits} bit`;
  const depth = bits > 8 && !isFine ? ` in 8 of ${bits} bit` : "";
  return shown.width >= native[0] ? `${size(...native)}${depth}` : `${shown.width} × ${shown.height} of ${size(...native)}${depth}`;
}
