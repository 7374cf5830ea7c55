// SPDX-License-Identifier: Apache-2.0
// The splat preview of the summary page: one canvas, WebGL 2, no libraries, nothing loaded.
//
// The data is base64 in the element #splat-data: for each of `count` splats a position (3 float32), the upper triangle
// of its covariance (6 float16) and a colour with opacity (4 bytes), each kind in one block.  The world is +Z up, the
// camera has x right, y down, z forward.  Splats are sorted back to front on the processor whenever the view turns.
"use strict";
(() => {
  const canvas = document.getElementById("preview");
  const note = document.getElementById("preview-note");
  const scene = JSON.parse(document.getElementById("splat-scene").textContent);
  const gl = canvas.getContext("webgl2", { antialias: false, alpha: false });
  if (!gl) { note.textContent = "This browser has no WebGL 2, which the preview needs."; return; }

  const text = atob(document.getElementById("splat-data").textContent.trim());
  const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  const count = scene.count;
  const positions = new Float32Array(bytes.buffer, 0, 3 * count);
  const covariances = new Uint16Array(bytes.buffer, 12 * count, 6 * count);
  const colors = new Uint8Array(bytes.buffer, 24 * count, 4 * count);

  const vertexSource = `#version 300 es
    precision highp float;
    precision highp int;
    uniform highp sampler2D positionMap, covarianceMap;
    uniform mediump sampler2D colorMap;
    uniform mat4 camFromWorld;
    uniform vec2 focal, viewport;
    uniform float variance;      // What one unit of the stored covariances is in world units squared.
    uniform bool antialiased;
    in vec2 corner;
    in uint which;
    out vec2 place;
    out vec4 color;
    void main() {
      int width = textureSize(positionMap, 0).x;
      ivec2 at = ivec2(int(which) % width, int(which) / width);
      vec3 p = (camFromWorld * vec4(texelFetch(positionMap, at, 0).xyz, 1.0)).xyz;
      gl_Position = vec4(0.0, 0.0, 2.0, 1.0);
      if (p.z < ${scene.near.toExponential()}) return;
      vec4 a = texelFetch(covarianceMap, ivec2(2 * at.x, at.y), 0);
      vec4 b = texelFetch(covarianceMap, ivec2(2 * at.x + 1, at.y), 0);
      mat3 sigma = mat3(a.x, a.y, a.z, a.y, a.w, b.x, a.z, b.x, b.y) * variance;
      // The slope of the projection is taken at most 30% outside of the picture, as the renderers do.
      vec2 limit = 1.3 * 0.5 * viewport / focal;
      vec2 slope = clamp(p.xy / p.z, -limit, limit);
      mat3 jacobian = mat3(focal.x / p.z, 0.0, 0.0, 0.0, focal.y / p.z, 0.0,
                           -focal.x * slope.x / p.z, -focal.y * slope.y / p.z, 0.0);
      mat3 m = jacobian * mat3(camFromWorld);
      mat3 flat_ = m * sigma * transpose(m);
      float xx = flat_[0][0], xy = flat_[0][1], yy = flat_[1][1];
      float before = max(xx * yy - xy * xy, 0.0);
      xx += 0.3; yy += 0.3;
      color = texelFetch(colorMap, at, 0);
      if (antialiased) color.a *= sqrt(before / (xx * yy - xy * xy));
      if (color.a < 1.0 / 255.0) return;
      float middle = 0.5 * (xx + yy);
      float spread = sqrt(max(0.25 * (xx - yy) * (xx - yy) + xy * xy, 1e-12));
      // Half axes out to where the splat falls below 1/255.
      float reach = sqrt(2.0 * log(255.0 * color.a));
      vec2 axis = abs(xy) > 1e-9 ? normalize(vec2(xy, middle + spread - xx))
                                 : (xx >= yy ? vec2(1.0, 0.0) : vec2(0.0, 1.0));
      float major = min(reach * sqrt(middle + spread), 2048.0);
      float minor = reach * sqrt(max(middle - spread, 0.0));
      vec2 pixel = focal * p.xy / p.z
                 + corner.x * major * axis + corner.y * minor * vec2(-axis.y, axis.x);
      place = corner * reach;
      gl_Position = vec4(pixel.x / (0.5 * viewport.x), -pixel.y / (0.5 * viewport.y), 0.0, 1.0);
    }`;
  const fragmentSource = `#version 300 es
    precision highp float;
    in vec2 place;
    in vec4 color;
    out vec4 result;
    void main() {
      float alpha = min(color.a * exp(-0.5 * dot(place, place)), 0.999);
      if (alpha < 1.0 / 255.0) discard;
      result = vec4(color.rgb * alpha, alpha);
    }`;

  function compiled(kind, source) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    return shader;
  }
  const program = gl.createProgram();
  gl.attachShader(program, compiled(gl.VERTEX_SHADER, vertexSource));
  gl.attachShader(program, compiled(gl.FRAGMENT_SHADER, fragmentSource));
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  gl.useProgram(program);
  const uniform = (name) => gl.getUniformLocation(program, name);

  const width = 1024, height = Math.max(1, Math.ceil(count / width));
  function texture(unit, name, internal, format, type, columns, data) {
    gl.activeTexture(gl.TEXTURE0 + unit);
    gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
    gl.texImage2D(gl.TEXTURE_2D, 0, internal, columns, height, 0, format, type, data);
    for (const key of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, key, gl.NEAREST);
    gl.uniform1i(uniform(name), unit);
  }
  const paddedPositions = new Float32Array(4 * width * height);
  const paddedCovariances = new Uint16Array(8 * width * height);
  const paddedColors = new Uint8Array(4 * width * height);
  for (let i = 0; i < count; i++) {
    for (let k = 0; k < 3; k++) paddedPositions[4 * i + k] = positions[3 * i + k];
    for (let k = 0; k < 6; k++) paddedCovariances[8 * i + k] = covariances[6 * i + k];
  }
  paddedColors.set(colors);
  texture(0, "positionMap", gl.RGBA32F, gl.RGBA, gl.FLOAT, width, paddedPositions);
  texture(1, "covarianceMap", gl.RGBA16F, gl.RGBA, gl.HALF_FLOAT, 2 * width, paddedCovariances);
  texture(2, "colorMap", gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE, width, paddedColors);
  gl.uniform1f(uniform("variance"), scene.variance);
  gl.uniform1i(uniform("antialiased"), scene.antialiased ? 1 : 0);

  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 1, -1, -1, 1, 1, 1]), gl.STATIC_DRAW);
  const corner = gl.getAttribLocation(program, "corner");
  gl.enableVertexAttribArray(corner);
  gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  const which = gl.getAttribLocation(program, "which");
  gl.enableVertexAttribArray(which);
  gl.vertexAttribIPointer(which, 1, gl.UNSIGNED_INT, 0, 0);
  gl.vertexAttribDivisor(which, 1);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);

  // The view: a point that is orbited, two angles and a distance.
  const start = (() => {
    const d = scene.eye.map((value, k) => value - scene.focus[k]);
    const distance = Math.hypot(...d);
    return { target: [...scene.focus], yaw: Math.atan2(d[1], d[0]), pitch: Math.asin(d[2] / distance), distance };
  })();
  let view = structuredClone(start);
  function pose() {
    const c = Math.cos(view.pitch), s = Math.sin(view.pitch);
    const out = [c * Math.cos(view.yaw), c * Math.sin(view.yaw), s];
    const eye = view.target.map((value, k) => value + view.distance * out[k]);
    const forward = out.map((value) => -value);
    const right = [-Math.sin(view.yaw), Math.cos(view.yaw), 0];
    const down = [forward[1] * right[2] - forward[2] * right[1], forward[2] * right[0] - forward[0] * right[2],
      forward[0] * right[1] - forward[1] * right[0]];
    return { eye, right, down, forward };
  }

  const order = new Uint32Array(count), depths = new Uint16Array(count), starts = new Uint32Array(65537);
  let sortedFor = null;
  function sort(forward, eye) {
    if (sortedFor && sortedFor.every((value, k) => Math.abs(value - forward[k]) < 1e-3)) return;
    sortedFor = [...forward];
    let low = Infinity, high = -Infinity;
    const along = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      const d = forward[0] * positions[3 * i] + forward[1] * positions[3 * i + 1] + forward[2] * positions[3 * i + 2];
      along[i] = d;
      if (d < low) low = d;
      if (d > high) high = d;
    }
    // Steps grow with the distance from the eye, so that a far background does not use them up.
    const here = forward[0] * eye[0] + forward[1] * eye[1] + forward[2] * eye[2];
    const key = (d) => Math.asinh((d - here) / view.distance);
    const first = key(low), scale = 65535 / Math.max(key(high) - first, 1e-9);
    starts.fill(0);
    for (let i = 0; i < count; i++) {
      depths[i] = 65535 - Math.min(65535, Math.max(0, Math.floor((key(along[i]) - first) * scale)));
      starts[depths[i] + 1]++;
    }
    for (let k = 0; k < 65536; k++) starts[k + 1] += starts[k];
    for (let i = 0; i < count; i++) order[starts[depths[i]]++] = i;
    gl.bufferData(gl.ARRAY_BUFFER, order, gl.DYNAMIC_DRAW);
  }

  function draw() {
    const ratio = Math.min(devicePixelRatio || 1, 1.5);
    const w = Math.max(1, Math.round(canvas.clientWidth * ratio)), h = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    const { eye, right, down, forward } = pose();
    sort(forward, eye);
    const rows = [right, down, forward], matrix = new Float32Array(16);
    for (let r = 0; r < 3; r++) {
      for (let c = 0; c < 3; c++) matrix[4 * c + r] = rows[r][c];
      matrix[12 + r] = -(rows[r][0] * eye[0] + rows[r][1] * eye[1] + rows[r][2] * eye[2]);
    }
    matrix[15] = 1;
    const focal = 0.5 * h / Math.tan(0.5 * scene.fov);
    gl.viewport(0, 0, w, h);
    gl.clearColor(...scene.background, 1);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniformMatrix4fv(uniform("camFromWorld"), false, matrix);
    gl.uniform2f(uniform("focal"), focal, focal);
    gl.uniform2f(uniform("viewport"), w, h);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, count);
    canvas.dataset.drawn = String(Number(canvas.dataset.drawn || 0) + 1);
  }
  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }

  const pointers = new Map();
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  const release = (event) => pointers.delete(event.pointerId);
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointermove", (event) => {
    const last = pointers.get(event.pointerId);
    if (!last) return;
    const now = [event.clientX, event.clientY];
    const dx = now[0] - last[0], dy = now[1] - last[1];
    if (pointers.size === 2) {
      const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
      const gap = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) + 1;
      zoom(gap(last) / gap(now));
    } else if (event.shiftKey || event.buttons & 6) {
      const { right, down } = pose();
      const step = 2 * view.distance * Math.tan(0.5 * scene.fov) / canvas.clientHeight;
      view.target = view.target.map((value, k) => value - step * (dx * right[k] + dy * down[k]));
    } else {
      view.yaw -= 0.006 * dx;
      view.pitch = Math.min(1.55, Math.max(-1.55, view.pitch + 0.006 * dy));
    }
    pointers.set(event.pointerId, now);
    redraw();
  });
  function zoom(factor) {
    view.distance = Math.min(50 * start.distance, Math.max(0.02 * start.distance, view.distance * factor));
    sortedFor = null;
    redraw();
  }
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(0.0012 * Math.max(-200, Math.min(200, event.deltaY))));
  }, { passive: false });
  canvas.addEventListener("dblclick", () => { view = structuredClone(start); sortedFor = null; redraw(); });
  canvas.addEventListener("webglcontextlost", () => { note.textContent = "The preview was stopped by the browser."; });
  new ResizeObserver(redraw).observe(canvas);
  draw();
})();
