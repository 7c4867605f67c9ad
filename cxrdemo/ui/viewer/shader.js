// Draws a pane on the graphics card: what `compose` of pixels.js does, in one fragment shader.

const VERTEX = `#version 300 es
void main() {
  // One triangle that covers the pane.
  gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
precision highp int;
uniform sampler2D grey, kept, cells, colours;
uniform float down; // the pane's height
uniform vec2 picture;
uniform vec4 turn; // from a way in the pane to one in the picture: a column, then the other
uniform vec2 offset; // where the picture's corner lies in the pane
uniform vec3 level; // of the pyramid, and how far off a pixel's middle it is looked at: across, down
uniform vec3 window; // level, width, 1 if inverted
uniform vec3 mask; // fill, or -1 where the picture stays; how steep its edge is, or 0: none; 1: heat is confined to it
uniform vec4 content;
uniform vec4 heat; // peak, opacity, and the ramp of compose; a peak of 0: no heat
out vec4 colour;

// Bilinear, clamped at the grid's rim, to full precision.
float between(sampler2D grid, vec2 share) {
  ivec2 size = textureSize(grid, 0);
  vec2 at = clamp(share * vec2(size) - 0.5, vec2(0.0), vec2(size - 1));
  ivec2 low = ivec2(at), high = min(low + 1, size - 1);
  vec2 part = at - vec2(low);
  float upper = mix(texelFetch(grid, low, 0).r, texelFetch(grid, ivec2(high.x, low.y), 0).r, part.x);
  float lower = mix(texelFetch(grid, ivec2(low.x, high.y), 0).r, texelFetch(grid, high, 0).r, part.x);
  return mix(upper, lower, part.y);
}

// The picture's level 0..1: its lower byte is red, its upper one green. A mean of both bytes is the
// mean of what they stand for.
float levelAt(vec2 share) {
  return dot(textureLod(grey, share, level.x).rg, vec2(255.0, 65280.0)) / 65535.0;
}

float shade(float value) {
  float share = clamp((value - window.x + window.y / 2.0) / window.y, 0.0, 1.0);
  return window.z > 0.5 ? 1.0 - share : share;
}

void main() {
  vec2 way = vec2(gl_FragCoord.x, down - gl_FragCoord.y) - offset;
  vec2 at = turn.xy * way.x + turn.zw * way.y;
  colour = vec4(0.0, 0.0, 0.0, 1.0);
  if (any(lessThan(at, vec2(0.0))) || any(greaterThan(at, picture))) return;
  vec2 share = at / picture;
  vec2 a = level.yz, b = vec2(a.x, -a.y);
  float g = shade((levelAt(share + a) + levelAt(share - a) + levelAt(share + b) + levelAt(share - b)) / 4.0);
  float inside = 1.0;
  if (mask.y > 0.0) {
    inside = clamp((between(kept, share) - 0.5) / mask.y + 0.5, 0.0, 1.0);
    if (mask.x >= 0.0) g = mix(shade(mask.x), g, inside);
  }
  vec3 shown = vec3(g);
  if (heat.x > 0.0) {
    float value = min(1.0, between(cells, content.xy + share * content.zw) / heat.x);
    if (value > heat.z) {
      float low = min(254.0, floor(255.0 * value));
      vec3 below = texelFetch(colours, ivec2(int(low), 0), 0).rgb;
      vec3 over = texelFetch(colours, ivec2(int(low) + 1, 0), 0).rgb;
      float alpha = heat.y * min(1.0, (value - heat.z) / (heat.w - heat.z)) * (mask.z > 0.5 ? inside : 1.0);
      shown = mix(shown, mix(below, over, 255.0 * value - low), alpha);
    }
  }
  colour = vec4(shown, 1.0);
}`;

// Whether there is no card but a program in its place, which is slower than `compose`.
function isSoftware(gl) {
  const about = gl.getExtension("WEBGL_debug_renderer_info");
  return /swiftshader|llvmpipe|softpipe|basic render/i.test(gl.getParameter(about ? about.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
}

// A renderer on WebGL 2, or null where there is no card for it. `onChange` is told when the card is
// lost, and when it is back.
function makeRenderer(onChange, takesSoftware = false) {
  const canvas = new OffscreenCanvas(1, 1);
  const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false });
  if (!gl || (isSoftware(gl) && !takesSoftware)) return null;
  const MOST_TEXTURES = 16; // three maskings, six maps of heat, a picture and its planted twin, and spare
  const UNITS = ["grey", "kept", "cells", "colours"];
  let program, places, textures; // textures: what each was made of -> texture, the oldest first

  function build() {
    program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
      if (!gl.isContextLost()) console.warn("The viewer's shader does not run here:", gl.getProgramInfoLog(program));
      return false;
    }
    gl.useProgram(program);
    textures = new Map();
    places = Object.fromEntries(
      ["down", "picture", "turn", "offset", "level", "window", "mask", "content", "heat"].map((name) => [name, gl.getUniformLocation(program, name)]),
    );
    UNITS.forEach((name, unit) => gl.uniform1i(gl.getUniformLocation(program, name), unit));
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    return true;
  }

  let isReady = build();
  if (!isReady) return null;
  const most = gl.getParameter(gl.MAX_TEXTURE_SIZE);
  canvas.addEventListener("webglcontextlost", (event) => {
    event.preventDefault(); // or it would never come back
    isReady = false;
    onChange();
  });
  canvas.addEventListener("webglcontextrestored", () => {
    isReady = build();
    onChange();
  });

  function bind(name, of, fill, filter = gl.NEAREST) {
    gl.activeTexture(gl.TEXTURE0 + UNITS.indexOf(name));
    let texture = textures.get(of);
    textures.delete(of);
    if (!texture) {
      if (textures.size >= MOST_TEXTURES) {
        const [oldest] = textures.keys();
        gl.deleteTexture(textures.get(oldest));
        textures.delete(oldest);
      }
      texture = gl.createTexture();
      gl.bindTexture(gl.TEXTURE_2D, texture);
      for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, filter);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, filter);
      fill();
    }
    textures.set(of, texture);
    gl.bindTexture(gl.TEXTURE_2D, texture);
  }

  // Every level is 16 bits as they lie in memory, the lower byte first.
  function bindPicture(pyramid) {
    bind("grey", pyramid, () => {
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_NEAREST);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAX_LEVEL, pyramid.length - 1);
      pyramid.forEach(({ width, height, values }, i) => {
        const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
        gl.texImage2D(gl.TEXTURE_2D, i, gl.RG8, width, height, 0, gl.RG, gl.UNSIGNED_BYTE, bytes);
      });
    }, gl.LINEAR);
  }

  return {
    // Whether a picture can be drawn: the card is there, and it fits into a texture.
    takes: (pyramid) => isReady && !gl.isContextLost() && Math.max(pyramid[0].width, pyramid[0].height) <= most,

    // Forgets the textures of another image.
    forget() {
      if (!isReady) return;
      for (const texture of textures.values()) gl.deleteTexture(texture);
      textures.clear();
    },

    // Draws one pane; the answer is an ImageBitmap.
    draw({ pyramid, width, height, at, picture, window, kept, fill, heat }) {
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
      gl.viewport(0, 0, width, height);
      bindPicture(pyramid);
      if (kept) {
        bind("kept", kept.values, () => gl.texImage2D(gl.TEXTURE_2D, 0, gl.R8, kept.width, kept.height, 0, gl.RED, gl.UNSIGNED_BYTE, kept.values));
      }
      if (heat) {
        bind("cells", heat.cells, () => gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32F, heat.columns, heat.rows, 0, gl.RED, gl.FLOAT, Float32Array.from(heat.cells)));
        bind("colours", heat.colours, () => {
          const rgba = new Uint8Array(1024).fill(255);
          for (let i = 0; i < 256; i++) rgba.set(heat.colours.slice(3 * i, 3 * i + 3), 4 * i);
          gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, rgba);
        });
      }
      const { level, off } = levelFor(at, picture, pyramid);
      gl.uniform1f(places.down, height);
      gl.uniform2f(places.picture, picture.width, picture.height);
      gl.uniform4f(places.turn, ...directionInPicture(at, [1, 0]), ...directionInPicture(at, [0, 1]));
      gl.uniform2f(places.offset, at.e, at.f);
      gl.uniform3f(places.level, level, off / pyramid[level].width, off / pyramid[level].height);
      gl.uniform3f(places.window, window.level, window.width, window.invert ? 1 : 0);
      gl.uniform3f(places.mask, fill ?? -1, kept ? edgeOf(at, picture, kept) : 0, heat?.confined ? 1 : 0);
      gl.uniform4f(places.content, ...(heat ? heat.content : [0, 0, 1, 1]));
      gl.uniform4f(places.heat, heat ? heat.peak : 0, heat ? heat.opacity : 0, ...(heat ? heat.ramp : [0, 1]));
      gl.drawArrays(gl.TRIANGLES, 0, 3);
      return canvas.transferToImageBitmap();
    },
  };
}
