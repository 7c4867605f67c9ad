// Draws a pane on the graphics card: what `compose` of pixels.js does, in one fragment shader.

const VERTEX = `#version 300 es
void main() {
  // One triangle that covers the pane.
  gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
precision highp int;
uniform sampler2D grey, levels, cells, colours;
uniform vec2 pane, picture, offset;
uniform float scale, lod;
uniform vec3 window; // level, width, 1 if inverted
uniform vec2 mask; // limit, fill; a limit below 0: no mask
uniform vec4 content;
uniform vec4 heat; // peak, opacity, clear up to, full from; a peak of 0: no heat
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

float shade(float value) {
  float share = clamp((value - window.x + window.y / 2.0) / window.y, 0.0, 1.0);
  return window.z > 0.5 ? 1.0 - share : share;
}

void main() {
  vec2 at = (vec2(gl_FragCoord.x, pane.y - gl_FragCoord.y) - offset) / scale;
  colour = vec4(0.0, 0.0, 0.0, 1.0);
  if (any(lessThan(at, vec2(0.0))) || any(greaterThan(at, picture))) return;
  vec2 share = at / picture;
  float g = shade(textureLod(grey, share, lod).r);
  if (mask.x >= 0.0 && 255.0 * between(levels, share) > mask.x) g = shade(mask.y);
  vec3 shown = vec3(g);
  if (heat.x > 0.0) {
    float value = min(1.0, between(cells, content.xy + share * content.zw) / heat.x);
    if (value > heat.z) {
      float low = min(254.0, floor(255.0 * value));
      vec3 below = texelFetch(colours, ivec2(int(low), 0), 0).rgb;
      vec3 over = texelFetch(colours, ivec2(int(low) + 1, 0), 0).rgb;
      float alpha = heat.y * min(1.0, (value - heat.z) / (heat.w - heat.z));
      shown = mix(shown, mix(below, over, 255.0 * value - low), alpha);
    }
  }
  colour = vec4(shown, 1.0);
}`;

// A renderer on WebGL 2, or null where there is none that can filter floats.
function makeRenderer() {
  const canvas = document.createElement("canvas");
  const gl = canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false });
  if (!gl) return null;
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) {
    console.warn("The viewer's shader does not run here:", gl.getProgramInfoLog(program));
    return null;
  }
  gl.useProgram(program);
  const place = (name) => gl.getUniformLocation(program, name);
  ["grey", "levels", "cells", "colours"].forEach((name, unit) => gl.uniform1i(place(name), unit));
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  // Halves hold eleven bits of a level; whole floats hold all, where they can be filtered.
  const precise = gl.getExtension("OES_texture_float_linear") ? gl.R32F : gl.R16F;
  const most = gl.getParameter(gl.MAX_TEXTURE_SIZE);
  const kept = [null, null, null, null]; // what each unit's texture was made of
  const textures = kept.map(() => gl.createTexture());

  function bind(unit, of, fill) {
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, textures[unit]);
    if (kept[unit] === of) return;
    gl.deleteTexture(textures[unit]);
    textures[unit] = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, textures[unit]);
    for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    fill();
    kept[unit] = of;
  }

  function bindPicture(pyramid) {
    bind(0, pyramid, () => {
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAX_LEVEL, pyramid.length - 1);
      pyramid.forEach((level, i) => {
        const values = Float32Array.from(level.values, (value) => value / WHITE);
        gl.texImage2D(gl.TEXTURE_2D, i, precise, level.width, level.height, 0, gl.RED, gl.FLOAT, values);
      });
    });
  }

  return {
    // Whether a picture fits into a texture.
    takes: (picture) => !gl.isContextLost() && Math.max(picture.width, picture.height) <= most,

    // Draws one pane; the answer is a canvas whose lower left part of that size holds it.
    draw({ pyramid, width, height, at, picture, window, mask, heat }) {
      if (canvas.width < width || canvas.height < height) {
        canvas.width = Math.max(canvas.width, width);
        canvas.height = Math.max(canvas.height, height);
      }
      gl.viewport(0, 0, width, height);
      bindPicture(pyramid);
      if (mask) {
        bind(1, mask.values, () => gl.texImage2D(gl.TEXTURE_2D, 0, gl.R8, mask.width, mask.height, 0, gl.RED, gl.UNSIGNED_BYTE, mask.values));
      }
      if (heat) {
        bind(2, heat.cells, () => gl.texImage2D(gl.TEXTURE_2D, 0, gl.R32F, heat.columns, heat.rows, 0, gl.RED, gl.FLOAT, Float32Array.from(heat.cells)));
        bind(3, heat.colours, () => {
          const rgba = new Uint8Array(1024).fill(255);
          for (let i = 0; i < 256; i++) rgba.set(heat.colours.slice(3 * i, 3 * i + 3), 4 * i);
          gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, 256, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, rgba);
        });
      }
      const { low, part } = levelFor(at.scale, pyramid.length);
      gl.uniform2f(place("pane"), width, height);
      gl.uniform2f(place("picture"), picture.width, picture.height);
      gl.uniform2f(place("offset"), at.ox, at.oy);
      gl.uniform1f(place("scale"), at.scale);
      gl.uniform1f(place("lod"), low + part);
      gl.uniform3f(place("window"), window.level, window.width, window.invert ? 1 : 0);
      gl.uniform2f(place("mask"), mask ? mask.limit : -1, mask ? mask.fill : 0);
      gl.uniform4f(place("content"), ...(heat ? heat.content : [0, 0, 1, 1]));
      gl.uniform4f(place("heat"), heat ? heat.peak : 0, heat ? heat.opacity : 0, HEAT_FROM, HEAT_FULL);
      gl.drawArrays(gl.TRIANGLES, 0, 3);
      return canvas;
    },
  };
}
