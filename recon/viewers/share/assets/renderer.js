// SPDX-License-Identifier: Apache-2.0
// Draws packed splats with WebGL2.
//
// Splats live in slots of 32,768, each sixteen rows of the textures; a splat's number is its texel.  The order to draw
// them in comes from outside, and whoever gives it uploads the slots that it speaks of first.

import {
  ELLIPSE_FRAGMENT,
  ELLIPSE_VERTEX,
  FULL_SCREEN_VERTEX,
  PROJECTION_FRAGMENT,
  QUADS,
  RESOLVE_FRAGMENT,
  ROW,
} from "./shaders.js";

export const SLOT_SPLATS = 32768;
const SLOT_ROWS = SLOT_SPLATS / ROW;
const CHUNK_TEXELS = 5;
const CHUNKS_PER_ROW = ROW / 256;

export class Renderer {
  /**
   * @param canvas where to draw.
   * @param splats {slots, degree, antialiased, entries (int8), paletteSize, units}.
   * @throws Error with a sentence for people where WebGL2 is missing.
   */
  constructor(canvas, splats) {
    const wanted = { alpha: false, antialias: false, depth: false, stencil: false, powerPreference: "high-performance" };
    const gl = canvas.getContext("webgl2", wanted);
    if (!gl) throw new Error("This browser gives no WebGL2, which drawing the scene needs.");
    this.canvas = canvas;
    this.gl = gl;
    this.splats = splats;
    this.float = Boolean(gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float"));
    this.slots = Math.min(splats.slots, Math.floor(gl.getParameter(gl.MAX_TEXTURE_SIZE) / SLOT_ROWS));
    this.usedSlots = 0;
    this.count = 0;
    this.target = null;
    this.makePrograms();
    this.makeSplatTextures();
  }

  makePrograms() {
    const gl = this.gl;
    this.projection = programOf(gl, FULL_SCREEN_VERTEX, PROJECTION_FRAGMENT);
    this.ellipse = programOf(gl, ELLIPSE_VERTEX, ELLIPSE_FRAGMENT);
    this.resolve = programOf(gl, FULL_SCREEN_VERTEX, RESOLVE_FRAGMENT);
    const corners = new Uint16Array(6 * QUADS);
    for (let quad = 0; quad < QUADS; quad++) {
      corners.set([0, 1, 2, 2, 1, 3].map((corner) => 4 * quad + corner), 6 * quad);
    }
    this.indices = gl.createBuffer();
    gl.bindVertexArray(gl.createVertexArray());
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.indices);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, corners, gl.STATIC_DRAW);
  }

  makeSplatTextures() {
    const gl = this.gl, rows = SLOT_ROWS * this.slots, size = this.splats.paletteSize;
    this.words = textureOf(gl, gl.RGBA32UI, ROW, rows);
    this.labels = textureOf(gl, gl.R32UI, ROW, rows);
    this.chunks = textureOf(gl, gl.RGBA32F, CHUNK_TEXELS * CHUNKS_PER_ROW, rows);
    this.order = textureOf(gl, gl.R32UI, ROW, rows);
    this.palettes = textureOf(gl, gl.RGBA32UI, 3 * size, 4);
    // 45 bytes of an entry and three of nothing make three texels.
    const padded = new Uint8Array(4 * size * 48);
    for (let entry = 0; entry < 4 * size; entry++) {
      padded.set(this.splats.entries.subarray(45 * entry, 45 * entry + 45), 48 * entry);
    }
    const texels = new Uint32Array(padded.buffer);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, 3 * size, 4, gl.RGBA_INTEGER, gl.UNSIGNED_INT, texels);
    this.places = textureOf(gl, gl.RGBA32UI, ROW, rows);
    this.looks = textureOf(gl, gl.RGBA32UI, ROW, rows);
    this.projected = framebufferOf(gl, [this.places, this.looks]);
  }

  /** Fills a slot: `words` [n, 4], `labels` [n] and `chunks` [n / 256, 20], n a multiple of 2048. */
  upload(slot, { words, labels, chunks }) {
    const gl = this.gl, row = SLOT_ROWS * slot, rows = labels.length / ROW;
    const put = (texture, width, format, type, data) => {
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, row, width, rows, format, type, data);
    };
    gl.activeTexture(gl.TEXTURE0);
    put(this.words, ROW, gl.RGBA_INTEGER, gl.UNSIGNED_INT, words);
    put(this.labels, ROW, gl.RED_INTEGER, gl.UNSIGNED_INT, labels);
    put(this.chunks, CHUNK_TEXELS * CHUNKS_PER_ROW, gl.RGBA, gl.FLOAT, chunks);
    this.usedSlots = Math.max(this.usedSlots, slot + 1);
  }

  /** Takes the splats' numbers, nearest first; the array is as long as whole rows. */
  setOrder(order, count) {
    const gl = this.gl, rows = Math.ceil(count / ROW);
    this.count = count;
    if (!count) return;
    gl.activeTexture(gl.TEXTURE0);
    gl.bindTexture(gl.TEXTURE_2D, this.order);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, ROW, rows, gl.RED_INTEGER, gl.UNSIGNED_INT, order.subarray(0, ROW * rows));
  }

  /** Draws what `camera` sees in `share` of the canvas's resolution, before a background of three numbers. */
  draw(camera, background, share = 1) {
    const gl = this.gl, { width, height } = this.canvas;
    const size = [Math.max(1, Math.round(share * width)), Math.max(1, Math.round(share * height))];
    if (!this.float) size.splice(0, 2, width, height);
    this.project(camera, size);
    if (this.float) {
      this.useTarget(width, height);
      gl.clearColor(0, 0, 0, 1);
    } else {
      gl.bindFramebuffer(gl.FRAMEBUFFER, null);
      gl.clearColor(...background, 1);
    }
    gl.viewport(0, 0, ...size);
    gl.clear(gl.COLOR_BUFFER_BIT);
    this.drawEllipses(size);
    if (this.float) this.drawResolved(background, size);
  }

  project(camera, [width, height]) {
    const gl = this.gl, { uniforms, program } = this.projection;
    const sx = width / camera.width, sy = height / camera.height;
    const fx = sx * camera.fx, fy = sy * camera.fy, cx = sx * camera.cx, cy = sy * camera.cy;
    const beyondX = (0.15 * width) / fx, beyondY = (0.15 * height) / fy;
    gl.useProgram(program);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.projected);
    gl.disable(gl.BLEND);
    gl.viewport(0, 0, ROW, SLOT_ROWS * this.usedSlots);
    bind(gl, uniforms, { wordMap: this.words, labelMap: this.labels, paletteMap: this.palettes, chunkMap: this.chunks });
    for (const axis of ["right", "down", "forward", "eye"]) gl.uniform3fv(uniforms[axis], camera[axis]);
    gl.uniform2f(uniforms.focal, fx, fy);
    gl.uniform2f(uniforms.principal, cx, cy);
    gl.uniform2f(uniforms.viewport, width, height);
    gl.uniform4f(uniforms.slopes, -cx / fx - beyondX, (width - cx) / fx + beyondX, -cy / fy - beyondY,
      (height - cy) / fy + beyondY);
    gl.uniform4fv(uniforms.units, this.splats.units);
    gl.uniform1i(uniforms.degree, this.splats.degree);
    gl.uniform1i(uniforms.antialiased, this.splats.antialiased ? 1 : 0);
    if (this.usedSlots) gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  drawEllipses(size) {
    const gl = this.gl, { uniforms, program } = this.ellipse;
    gl.useProgram(program);
    gl.enable(gl.BLEND);
    // Nearest first: colours are dimmed by the light that passes so far, which alpha counts down from one.
    if (this.float) gl.blendFuncSeparate(gl.DST_ALPHA, gl.ONE, gl.ZERO, gl.ONE_MINUS_SRC_ALPHA);
    else gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    bind(gl, uniforms, { orderMap: this.order, placeMap: this.places, lookMap: this.looks });
    gl.uniform2f(uniforms.viewport, ...size);
    gl.uniform1i(uniforms.count, this.count);
    gl.uniform1i(uniforms.farthestFirst, this.float ? 0 : 1);
    if (this.count) {
      gl.drawElementsInstanced(gl.TRIANGLES, 6 * QUADS, gl.UNSIGNED_SHORT, 0, Math.ceil(this.count / QUADS));
    }
  }

  drawResolved(background, [width, height]) {
    const gl = this.gl, { uniforms, program } = this.resolve;
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.useProgram(program);
    gl.disable(gl.BLEND);
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    bind(gl, uniforms, { picture: this.target.texture });
    gl.uniform3fv(uniforms.background, background);
    const share = [width / this.canvas.width, height / this.canvas.height];
    gl.uniform2f(uniforms.share, share[0] / this.target.width, share[1] / this.target.height);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  useTarget(width, height) {
    const gl = this.gl;
    if (this.target?.width !== width || this.target?.height !== height) {
      if (this.target) {
        gl.deleteFramebuffer(this.target.framebuffer);
        gl.deleteTexture(this.target.texture);
      }
      const texture = textureOf(gl, gl.RGBA16F, width, height, gl.LINEAR);
      this.target = { texture, framebuffer: framebufferOf(gl, [texture]), width, height };
    }
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.target.framebuffer);
  }
}

function programOf(gl, vertexSource, fragmentSource) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertexSource], [gl.FRAGMENT_SHADER, fragmentSource]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
    const logs = gl.getAttachedShaders(program).map((shader) => gl.getShaderInfoLog(shader));
    throw new Error(`The graphics driver refuses a shader: ${[...logs, gl.getProgramInfoLog(program)].join(" ")}`);
  }
  const uniforms = {}, count = gl.getProgramParameter(program, gl.ACTIVE_UNIFORMS) ?? 0;
  for (let index = 0; index < count; index++) {
    const { name } = gl.getActiveUniform(program, index);
    uniforms[name] = gl.getUniformLocation(program, name);
  }
  return { program, uniforms };
}

function textureOf(gl, format, width, height, filter = gl.NEAREST) {
  const texture = gl.createTexture();
  gl.activeTexture(gl.TEXTURE0);
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texStorage2D(gl.TEXTURE_2D, 1, format, width, height);
  for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, filter);
  for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
  return texture;
}

function framebufferOf(gl, textures) {
  const framebuffer = gl.createFramebuffer();
  gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
  const places = textures.map((_, index) => gl.COLOR_ATTACHMENT0 + index);
  textures.forEach((texture, index) => {
    gl.framebufferTexture2D(gl.FRAMEBUFFER, places[index], gl.TEXTURE_2D, texture, 0);
  });
  gl.drawBuffers(places);
  return framebuffer;
}

function bind(gl, uniforms, textures) {
  Object.entries(textures).forEach(([name, texture], unit) => {
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.uniform1i(uniforms[name], unit);
  });
}
