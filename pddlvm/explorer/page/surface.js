// A field on triangles, in the plane or on surfaces in space, by WebGL.
//
// Values of the points of a plane are drawn by numbers of points. Else each triangle has corners of
// its own, so that values may belong to cells, and edges of solids stay sharp. When an answer comes,
// values alone go to the graphics card.

import { table, ticks, written } from "./colours.js";

const VERTEX = `#version 300 es
in vec3 position; in vec3 normal; in float value;
uniform mat4 view; uniform mat3 turn;
out float v; out vec3 n;
void main() { v = value; n = turn * normal; gl_Position = view * vec4(position, 1.0); }`;

const FRAGMENT = `#version 300 es
precision highp float;
in float v; in vec3 n;
uniform sampler2D colours; uniform vec2 range; uniform float lit; uniform float levels; uniform vec4 plain;
out vec4 colour;
void main() {
  if (plain.a > 0.0) { colour = plain; return; }
  float t = clamp((v - range.x) / max(range.y - range.x, 1e-30), 0.0, 1.0);
  vec3 c = texture(colours, vec2(t * 255.0 / 256.0 + 0.5 / 256.0, 0.5)).rgb;
  if (levels > 0.0) {
    float s = t * levels, w = fwidth(s), d = abs(fract(s - 0.5) - 0.5);
    float near = 1.0 - smoothstep(0.4 * w, 1.4 * w, d);
    c = mix(c, vec3(0.0), 0.16 * near * step(w, 0.35));
  }
  if (lit > 0.0) {
    vec3 m = normalize(n);
    float front = abs(dot(m, normalize(vec3(-0.35, 0.45, 0.82))));
    float shine = pow(abs(dot(m, normalize(vec3(-0.2, 0.3, 0.95)))), 40.0);
    c = c * (0.62 + 0.45 * front) + 0.10 * shine;
  }
  colour = vec4(c, 1.0);
}`;

const CREASE = Math.cos((40 * Math.PI) / 180);

export class Surface {
  constructor(canvas, scene) {
    this.canvas = canvas;
    this.isFlat = scene.kind === "plane";
    const gl = (this.gl = canvas.getContext("webgl2", { antialias: !isSoftware() }));
    if (!gl) throw new Error("this browser has no WebGL, by which fields are drawn");
    this.points = scene.arrays.points;
    this.cells = Uint32Array.from(scene.arrays.cells);
    this.owners = Uint32Array.from(scene.arrays.owners);
    this.axes = scene.axes;
    this.place = this.points;
    this.program = program(gl);
    this.at = (name) => gl.getUniformLocation(this.program, name);
    this.buffers = { position: gl.createBuffer(), normal: gl.createBuffer(), value: gl.createBuffer(), edges: gl.createBuffer(), border: gl.createBuffer(), numbers: gl.createBuffer() };
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.buffers.numbers);
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, this.cells, gl.STATIC_DRAW);
    this.luts = {};
    for (const name of ["viridis", "magma"]) this.luts[name] = texture(gl, table(name));
    this.measure();
    this.edges = edgesOf(this.cells, this.points, this.isFlat);
    if (!this.isFlat) this.upload("normal", normalsOf(this.points, this.cells));
    this.home();
  }

  measure() {
    const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
    for (let i = 0; i < this.points.length; i++) {
      low[i % 3] = Math.min(low[i % 3], this.points[i]);
      high[i % 3] = Math.max(high[i % 3], this.points[i]);
    }
    this.low = low; this.high = high;
    this.middle = low.map((a, i) => 0.5 * (a + high[i]));
    this.extent = Math.hypot(...low.map((a, i) => high[i] - a)) || 1;
  }

  home() { this.angles = this.isFlat ? [0, 0] : [-0.62, -1.13]; this.factor = 1; this.shift = [0, 0]; }

  resize(width, height, ratio) {
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    this.size = [width, height, ratio];
  }

  upload(name, data) {
    const gl = this.gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
  }

  show(answer) {
    const { values, displacement } = answer.arrays, isNodal = values.length === this.points.length / 3;
    const isShared = this.isFlat && isNodal, isMoved = displacement || isShared !== this.isShared;
    this.answer = answer; this.isNodal = isNodal; this.isShared = isShared; this.raw = values;
    if (isShared) this.upload("value", values);
    else {
      this.values ??= new Float32Array(this.cells.length);
      for (let k = 0; k < this.cells.length; k++) this.values[k] = values[isNodal ? this.cells[k] : this.owners[(k / 3) | 0]];
      this.upload("value", this.values);
    }
    if (isMoved) this.move(displacement);
  }

  valueAt(corner) { return this.isNodal ? this.raw[this.cells[corner]] : this.raw[this.owners[(corner / 3) | 0]]; }

  // Displacements, enlarged to a tenth of the size at first, and by as much from then on.
  move(displacement) {
    if (displacement) {
      let most = 0;
      for (let i = 0; i < displacement.length; i += 3) most = Math.max(most, Math.hypot(displacement[i], displacement[i + 1], displacement[i + 2]));
      this.enlarged ??= most > 0 ? Number((0.1 * this.extent / most).toPrecision(2)) : 1;
      this.place = this.points.map((x, i) => x + this.enlarged * displacement[i]);
    }
    this.upload("position", this.isShared ? this.place : this.lines(this.cells));
    if (displacement) this.upload("normal", normalsOf(this.place, this.cells));
    this.upload("edges", this.lines(this.edges.all));
    this.upload("border", this.lines(this.edges.border));
  }

  lines(pairs) {
    const found = new Float32Array(3 * pairs.length);
    for (let k = 0; k < pairs.length; k++) for (let c = 0; c < 3; c++) found[3 * k + c] = this.place[3 * pairs[k] + c];
    return found;
  }

  matrices() {
    const [width, height] = this.size, [a, b] = this.angles, m = this.middle;
    const turn = this.isFlat ? [1, 0, 0, 0, 1, 0, 0, 0, 1] : multiply3(aboutX(b), aboutZ(a));
    const w = this.high[0] - this.low[0] || 1, h = this.high[1] - this.low[1] || 1;
    // In pixels per unit of length; the plane leaves room for axes and scale.
    const scale = this.factor * (this.isFlat ? Math.min((width - 190) / w, (height - 90) / h) : (1.02 * Math.min(width, height)) / this.extent);
    const sx = (2 * scale) / width, sy = (2 * scale) / height, sz = -1 / this.extent;
    const t = [0, 1, 2].map((r) => turn[r] * m[0] + turn[3 + r] * m[1] + turn[6 + r] * m[2]);
    const ox = (2 * (this.shift[0] - (this.isFlat ? 14 : 20))) / width, oy = (-2 * (this.shift[1] - (this.isFlat ? 8 : 0))) / height;
    const s = [sx, sy, sz];
    const view = [];
    for (let c = 0; c < 3; c++) view.push(...[0, 1, 2].map((r) => s[r] * turn[3 * c + r]), 0);
    view.push(-s[0] * t[0] + ox, -s[1] * t[1] + oy, -s[2] * t[2], 1);
    return { view, turn };
  }

  draw(range, style, sensors, lut, hasMesh) {
    const gl = this.gl, [width, height, ratio] = this.size, { view, turn } = this.matrices();
    this.view = view;
    gl.viewport(0, 0, width * ratio, height * ratio);
    gl.clearColor(...style.picture, 1);
    gl.enable(gl.DEPTH_TEST);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    if (!this.answer) return;
    gl.useProgram(this.program);
    gl.bindTexture(gl.TEXTURE_2D, this.luts[lut]);
    gl.uniformMatrix4fv(this.at("view"), false, view);
    gl.uniformMatrix3fv(this.at("turn"), false, turn);
    gl.uniform2f(this.at("range"), ...range);
    gl.uniform1f(this.at("lit"), this.isFlat ? 0 : 1);
    gl.uniform1f(this.at("levels"), this.isNodal ? 12 : 0);
    gl.uniform4f(this.at("plain"), 0, 0, 0, 0);
    this.bind("position", 3); this.bind("value", 1);
    if (!this.isFlat) this.bind("normal", 3);
    gl.enable(gl.POLYGON_OFFSET_FILL); gl.polygonOffset(1, 1);
    if (this.isShared) gl.drawElements(gl.TRIANGLES, this.cells.length, gl.UNSIGNED_INT, 0);
    else gl.drawArrays(gl.TRIANGLES, 0, this.cells.length);
    gl.disable(gl.POLYGON_OFFSET_FILL);
    gl.enable(gl.BLEND); gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    if (hasMesh) this.strokes("edges", this.edges.all.length, [0, 0, 0, 0.28]);
    this.strokes("border", this.edges.border.length, this.isFlat ? [...style.inkParts, 0.7] : [0, 0, 0, 0.35]);
    gl.disable(gl.BLEND);
  }

  strokes(name, n, colour) {
    const gl = this.gl, place = gl.getAttribLocation(this.program, "position");
    gl.uniform4f(this.at("plain"), ...colour);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
    gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
    for (const other of ["normal", "value"]) { const at = gl.getAttribLocation(this.program, other); if (at >= 0) gl.disableVertexAttribArray(at); }
    gl.drawArrays(gl.LINES, 0, n);
  }

  bind(name, size) {
    const gl = this.gl, place = gl.getAttribLocation(this.program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, size, gl.FLOAT, false, 0, 0);
  }

  screen(x, y, z) {
    const v = this.view, [width, height] = this.size;
    return [(0.5 + 0.5 * (v[0] * x + v[4] * y + v[8] * z + v[12])) * width, (0.5 - 0.5 * (v[1] * x + v[5] * y + v[9] * z + v[13])) * height, v[2] * x + v[6] * y + v[10] * z + v[14]];
  }

  // The point of the undeformed surface under a pixel, and the value there.
  pick(px, py) {
    if (!this.view || !this.answer) return null;
    const n = this.points.length / 3, s = new Float64Array(3 * n), p = this.place, t = this.cells;
    for (let i = 0; i < n; i++) { const q = this.screen(p[3 * i], p[3 * i + 1], p[3 * i + 2]); s[3 * i] = q[0]; s[3 * i + 1] = q[1]; s[3 * i + 2] = q[2]; }
    let best = null, depth = Infinity;
    for (let k = 0; k < t.length; k += 3) {
      const a = 3 * t[k], b = 3 * t[k + 1], c = 3 * t[k + 2];
      const d = (s[b] - s[a]) * (s[c + 1] - s[a + 1]) - (s[c] - s[a]) * (s[b + 1] - s[a + 1]);
      if (!d) continue;
      const u = ((px - s[a]) * (s[c + 1] - s[a + 1]) - (s[c] - s[a]) * (py - s[a + 1])) / d;
      const w = ((s[b] - s[a]) * (py - s[a + 1]) - (px - s[a]) * (s[b + 1] - s[a + 1])) / d;
      if (u < 0 || w < 0 || u + w > 1) continue;
      const here = s[a + 2] + u * (s[b + 2] - s[a + 2]) + w * (s[c + 2] - s[a + 2]);
      if (here < depth) { depth = here; best = [k, 1 - u - w, u, w]; }
    }
    if (!best) return null;
    const [k, ...weights] = best, mix = (of) => weights.reduce((sum, weight, i) => sum + weight * of(t[k + i], k + i), 0);
    const x = this.axes.map((_, c) => mix((i) => this.points[3 * i + c]));
    return { x, value: mix((_, corner) => this.valueAt(corner)) };
  }

  project(sensor) {
    if (!this.view) return null;
    const [x, y = 0, z = 0] = sensor.x;
    let [a, b, c] = [x, y, z];
    if (this.place !== this.points) {
      const i = this.nearest(sensor);
      [a, b, c] = [0, 1, 2].map((k) => [x, y, z][k] + this.place[3 * i + k] - this.points[3 * i + k]);
    }
    return this.screen(a, b, c).slice(0, 2);
  }

  nearest(sensor) {
    if (sensor.nearest === undefined) {
      let best = Infinity;
      for (let i = 0; i < this.points.length / 3; i++) {
        const d = sensor.x.reduce((sum, x, c) => sum + (x - this.points[3 * i + c]) ** 2, 0);
        if (d < best) { best = d; Object.defineProperty(sensor, "nearest", { value: i, configurable: true }); }
      }
    }
    return sensor.nearest;
  }

  // Ticks of the plane; of space three arrows in a corner.
  drawAxes(c, style) {
    c.font = style.font; c.fillStyle = style.quiet; c.strokeStyle = style.quiet; c.lineWidth = 1;
    if (!this.isFlat) return this.drawTriad(c, style);
    const [x0, y0] = this.screen(this.low[0], this.low[1], 0), [x1, y1] = this.screen(this.high[0], this.high[1], 0);
    c.textAlign = "center"; c.textBaseline = "top";
    for (const t of ticks(this.low[0], this.high[0], Math.max(2, (x1 - x0) / 80))) {
      const [x] = this.screen(t, this.low[1], 0);
      stroke(c, x, y0 + 3, x, y0 + 8); c.fillText(written(t), x, y0 + 10);
    }
    c.fillText(this.axes[0], 0.5 * (x0 + x1), y0 + 26);
    c.textAlign = "right"; c.textBaseline = "middle";
    for (const t of ticks(this.low[1], this.high[1], Math.max(2, (y0 - y1) / 60))) {
      const [, y] = this.screen(this.low[0], t, 0);
      stroke(c, x0 - 8, y, x0 - 3, y); c.fillText(written(t), x0 - 11, y);
    }
    c.fillText(this.axes[1], x0 - 44, 0.5 * (y0 + y1));
  }

  drawTriad(c, style) {
    const { turn } = this.matrices(), x = 46, y = this.size[1] - 46;
    c.textAlign = "center"; c.textBaseline = "middle";
    this.axes.forEach((name, i) => {
      const [dx, dy] = [turn[3 * i], -turn[3 * i + 1]];
      stroke(c, x, y, x + 26 * dx, y + 26 * dy); c.fillText(name, x + 36 * dx, y + 36 * dy);
    });
  }

  turn(dx, dy, isShift) {
    if (this.isFlat || isShift) { this.shift[0] += dx; this.shift[1] += dy; return; }
    this.angles[0] += 0.008 * dx;
    this.angles[1] = Math.max(-Math.PI, Math.min(0, this.angles[1] + 0.008 * dy));
  }

  zoom(factor) { this.factor = Math.max(0.3, Math.min(30, this.factor * factor)); }
}

// Drawn by the processor, smooth edges of triangles cost more than they are worth.
function isSoftware() {
  const gl = document.createElement("canvas").getContext("webgl2"), known = gl?.getExtension("WEBGL_debug_renderer_info");
  return known ? /swiftshader|llvmpipe|software/i.test(gl.getParameter(known.UNMASKED_RENDERER_WEBGL)) : false;
}

function stroke(c, x0, y0, x1, y1) { c.beginPath(); c.moveTo(x0, y0); c.lineTo(x1, y1); c.stroke(); }

const aboutX = (a) => [1, 0, 0, 0, Math.cos(a), Math.sin(a), 0, -Math.sin(a), Math.cos(a)];
const aboutZ = (a) => [Math.cos(a), Math.sin(a), 0, -Math.sin(a), Math.cos(a), 0, 0, 0, 1];

// Matrices by columns.
function multiply3(a, b) {
  const found = new Array(9).fill(0);
  for (let c = 0; c < 3; c++) for (let r = 0; r < 3; r++) for (let k = 0; k < 3; k++) found[3 * c + r] += a[3 * k + r] * b[3 * c + k];
  return found;
}

function program(gl) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  return made;
}

function texture(gl, colours) {
  const made = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, made);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, colours.length / 4, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, colours);
  for (const [name, value] of [[gl.TEXTURE_MIN_FILTER, gl.LINEAR], [gl.TEXTURE_MAG_FILTER, gl.LINEAR], [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE], [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE]]) gl.texParameteri(gl.TEXTURE_2D, name, value);
  return made;
}

// Of each triangle, by the corners of its cross product.
function facesOf(points, cells) {
  const found = new Float32Array(cells.length);
  for (let k = 0; k < cells.length; k += 3) {
    const [a, b, c] = [3 * cells[k], 3 * cells[k + 1], 3 * cells[k + 2]];
    const u = [0, 1, 2].map((i) => points[b + i] - points[a + i]), w = [0, 1, 2].map((i) => points[c + i] - points[a + i]);
    found.set([u[1] * w[2] - u[2] * w[1], u[2] * w[0] - u[0] * w[2], u[0] * w[1] - u[1] * w[0]], k);
  }
  return found;
}

const cosine = (f, a, b) => {
  const dot = f[a] * f[b] + f[a + 1] * f[b + 1] + f[a + 2] * f[b + 2];
  return dot / (Math.hypot(f[a], f[a + 1], f[a + 2]) * Math.hypot(f[b], f[b + 1], f[b + 2]) || 1);
};

// Of each corner the mean of those triangles around it that meet without a crease.
function normalsOf(points, cells) {
  const faces = facesOf(points, cells), around = Array.from({ length: points.length / 3 }, () => []);
  for (let k = 0; k < cells.length; k++) around[cells[k]].push(3 * ((k / 3) | 0));
  const found = new Float32Array(3 * cells.length);
  for (let k = 0; k < cells.length; k++) {
    const own = 3 * ((k / 3) | 0);
    for (const f of around[cells[k]]) {
      const cos = cosine(faces, own, f);
      if (Math.abs(cos) < CREASE) continue;
      for (let c = 0; c < 3; c++) found[3 * k + c] += Math.sign(cos) * faces[f + c];
    }
  }
  return found;
}

// Pairs of points: all edges, and those that are of one triangle, or creases.
function edgesOf(cells, points, isFlat) {
  const n = points.length / 3, faces = isFlat ? null : facesOf(points, cells), m = cells.length;
  const keys = new Float64Array(m), order = new Uint32Array(m);
  for (let k = 0; k < m; k++) {
    const a = cells[k], b = cells[k % 3 === 2 ? k - 2 : k + 1];
    keys[k] = Math.min(a, b) * n + Math.max(a, b);
    order[k] = k;
  }
  order.sort((a, b) => keys[a] - keys[b]);
  const all = [], border = [], face = (i) => 3 * ((order[i] / 3) | 0);
  for (let i = 0; i < m; ) {
    let j = i + 1;
    while (j < m && keys[order[j]] === keys[order[i]]) j++;
    const key = keys[order[i]], pair = [Math.floor(key / n), key % n];
    const isCrease = faces && j - i === 2 && Math.abs(cosine(faces, face(i), face(i + 1))) < CREASE;
    all.push(...pair);
    if (j - i === 1 || isCrease) border.push(...pair);
    i = j;
  }
  return { all: Uint32Array.from(all), border: Uint32Array.from(border) };
}
