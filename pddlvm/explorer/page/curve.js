// A solution along a line: its values, a band of two standard deviations, sensors.

import { ticks, written } from "./colours.js";

const MARGIN = { left: 64, right: 24, top: 30, bottom: 40 };

export class Curve {
  constructor(canvas, scene) {
    this.canvas = canvas;
    const n = scene.arrays.points.length / 3, x = Array.from({ length: n }, (_, i) => scene.arrays.points[3 * i]);
    this.x = x;
    this.order = x.map((_, i) => i).sort((a, b) => x[a] - x[b]);
    this.middles = [];
    const { cells, owners } = scene.arrays;
    for (let k = 0; k < owners.length; k++) this.middles[owners[k]] = 0.5 * (x[cells[2 * k]] + x[cells[2 * k + 1]]);
    this.low = Math.min(...x);
    this.high = Math.max(...x);
    this.axis = scene.axes[0];
  }

  show(answer) { this.answer = answer; }
  setReference(values) { this.reference = values; }

  resize(width, height, ratio) {
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    this.size = [width, height, ratio];
  }

  places(n) { return n === this.x.length ? [this.x, this.order] : [this.middles, this.middles.map((_, i) => i).sort((a, b) => this.middles[a] - this.middles[b])]; }

  draw(range, style, sensors) {
    const [width, height, ratio] = this.size, c = this.canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, width, height);
    if (!this.answer) return;
    const { values, sigma } = this.answer.arrays, [x, order] = this.places(values.length);
    let [low, high] = range;
    if (sigma) for (let i = 0; i < values.length; i++) {
      low = Math.min(low, values[i] - 2 * sigma[i]);
      high = Math.max(high, values[i] + 2 * sigma[i]);
    }
    for (const s of sensors) if (s.shown && s.y[0] !== null) { low = Math.min(low, s.y[0]); high = Math.max(high, s.y[0]); }
    if (high - low < 1e-12 * Math.max(Math.abs(low), Math.abs(high), 1e-30)) { low -= 0.5 || 1; high += 0.5; }
    const pad = 0.06 * (high - low);
    low -= pad; high += pad;
    this.toX = (v) => MARGIN.left + ((v - this.low) / (this.high - this.low)) * (width - MARGIN.left - MARGIN.right);
    this.toY = (v) => height - MARGIN.bottom - ((v - low) / (high - low)) * (height - MARGIN.top - MARGIN.bottom);
    c.font = style.font; c.fillStyle = style.quiet; c.strokeStyle = style.line; c.lineWidth = 1;
    c.textAlign = "right"; c.textBaseline = "middle";
    for (const t of ticks(low, high, 6)) { line(c, MARGIN.left, this.toY(t), width - MARGIN.right, this.toY(t)); c.fillText(written(t), MARGIN.left - 8, this.toY(t)); }
    c.textAlign = "center"; c.textBaseline = "top";
    for (const t of ticks(this.low, this.high, 8)) { line(c, this.toX(t), height - MARGIN.bottom, this.toX(t), height - MARGIN.bottom + 4); c.fillText(written(t), this.toX(t), height - MARGIN.bottom + 8); }
    c.fillText(this.axis, 0.5 * (MARGIN.left + width - MARGIN.right), height - 16);
    if (sigma) {
      c.fillStyle = style.accent; c.globalAlpha = 0.18; c.beginPath();
      order.forEach((i, k) => c[k ? "lineTo" : "moveTo"](this.toX(x[i]), this.toY(values[i] + 2 * sigma[i])));
      [...order].reverse().forEach((i) => c.lineTo(this.toX(x[i]), this.toY(values[i] - 2 * sigma[i])));
      c.fill(); c.globalAlpha = 1;
    }
    c.strokeStyle = style.accent; c.lineWidth = 2.2; c.lineJoin = "round";
    this.path(c, x, order, values);
    if (this.reference && this.reference.length === values.length) {
      c.strokeStyle = style.ink; c.lineWidth = 1.4; c.setLineDash([6, 4]);
      this.path(c, x, order, this.reference);
      c.setLineDash([]);
    }
  }

  path(c, x, order, values) {
    c.beginPath();
    order.forEach((i, k) => c[k ? "lineTo" : "moveTo"](this.toX(x[i]), this.toY(values[i])));
    c.stroke();
  }

  pick(px, py) {
    if (!this.toX || !this.answer) return null;
    const x = this.low + ((px - MARGIN.left) / (this.size[0] - MARGIN.left - MARGIN.right)) * (this.high - this.low);
    if (x < this.low || x > this.high) return null;
    const { values } = this.answer.arrays, [places, order] = this.places(values.length);
    const j = Math.max(1, order.findIndex((i) => places[i] >= x)), [a, b] = [order[j - 1], order[j]];
    const t = Math.min(1, Math.max(0, (x - places[a]) / (places[b] - places[a])));
    return { x: [x], value: values[a] + t * (values[b] - values[a]) };
  }

  project(sensor) { return this.toX ? [this.toX(sensor.x[0]), this.toY(sensor.y[0] ?? sensor.seen?.[0] ?? 0)] : null; }
  turn() {}
  zoom() {}
  home() {}
}

function line(c, x0, y0, x1, y1) { c.beginPath(); c.moveTo(x0, y0); c.lineTo(x1, y1); c.stroke(); }
