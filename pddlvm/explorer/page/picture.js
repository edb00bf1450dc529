// The picture, whatever it is of: what is under the pointer, sensors on it, its export.

import { Curve } from "./curve.js";
import { Surface } from "./surface.js";

const CLICK = 4;

export class Picture {
  constructor(elements, scene, events) {
    this.elements = elements;
    this.scene = scene;
    this.events = events;
    this.view = new (scene.kind === "line" ? Curve : Surface)(elements.draw, scene);
    this.sensors = [];
    this.range = [0, 1];
    this.lut = "viridis";
    this.hasMesh = false;
    new ResizeObserver(() => this.resize()).observe(elements.picture);
    this.listen();
    this.resize();
  }

  // What lies over a plane, axes and sensors, stays where it is when values change.
  show(answer, range, lut) {
    const sensors = JSON.stringify(this.sensors.map((s) => [s.x, s.shown]));
    this.isOverDue ||= !this.view.isFlat || sensors !== this.drawnSensors;
    this.drawnSensors = sensors;
    this.view.show(answer);
    this.range = range;
    this.lut = lut;
    this.due();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.elements.picture, ratio = window.devicePixelRatio || 1;
    if (!width || !height) return;
    this.view.resize(width, height, ratio);
    this.elements.over.width = width * ratio;
    this.elements.over.height = height * ratio;
    this.ratio = ratio;
    this.isOverDue = true;
    this.draw();
  }

  // At most once a frame.
  due() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => { this.isDue = false; this.draw(); });
  }

  redraw() { this.isOverDue = true; this.due(); }

  draw() {
    const style = styleOf(this.elements.picture);
    this.view.draw(this.range, style, this.sensors, this.lut, this.hasMesh);
    if (this.isOverDue) this.drawOver(style);
    this.isOverDue = !this.view.answer;
    this.events.drawn();
  }

  drawOver(style) {
    const c = this.elements.over.getContext("2d"), r = this.ratio;
    c.setTransform(r, 0, 0, r, 0, 0);
    c.clearRect(0, 0, this.elements.over.width, this.elements.over.height);
    if (this.view.answer && this.view.drawAxes) this.view.drawAxes(c, style);
    this.sensors.forEach((sensor, i) => this.drawSensor(c, sensor, i));
  }

  drawSensor(c, sensor, i) {
    const at = this.view.project(sensor);
    if (!at) return;
    c.globalAlpha = sensor.shown ? 1 : 0.35;
    c.beginPath(); c.arc(at[0], at[1], 8.5, 0, 2 * Math.PI);
    c.fillStyle = "#e8710a"; c.fill(); c.lineWidth = 2; c.strokeStyle = "#fff"; c.stroke();
    c.fillStyle = "#fff"; c.font = "bold 10px sans-serif"; c.textAlign = "center"; c.textBaseline = "middle";
    c.fillText(String(i + 1), at[0], at[1] + 0.5);
    c.globalAlpha = 1;
  }

  listen() {
    const over = this.elements.over, place = (e) => [e.offsetX, e.offsetY];
    let from = null, moved = 0;
    over.addEventListener("pointerdown", (e) => { from = place(e); moved = 0; over.setPointerCapture(e.pointerId); });
    over.addEventListener("pointermove", (e) => {
      const [x, y] = place(e);
      if (!from) return this.events.over(this.view.pick(x, y), x, y);
      moved += Math.abs(x - from[0]) + Math.abs(y - from[1]);
      if (moved > CLICK) { this.view.turn(x - from[0], y - from[1], e.shiftKey); this.events.over(null); this.redraw(); }
      from = [x, y];
    });
    over.addEventListener("pointerup", (e) => {
      from = null;
      if (moved <= CLICK) { const found = this.view.pick(...place(e)); if (found) this.events.click(found); }
    });
    over.addEventListener("pointerleave", () => this.events.over(null));
    over.addEventListener("wheel", (e) => { e.preventDefault(); this.view.zoom(Math.exp(-0.0012 * e.deltaY)); this.redraw(); }, { passive: false });
    over.addEventListener("dblclick", () => { this.view.home(); this.redraw(); });
  }

  // One canvas with the picture, its sensors, the scale and a title.
  export(title, low, high) {
    this.draw();
    const { draw, over, bar, picture } = this.elements, r = this.ratio, made = document.createElement("canvas");
    const top = 40 * r, style = styleOf(picture);
    made.width = draw.width; made.height = draw.height + top;
    const c = made.getContext("2d");
    c.fillStyle = `rgb(${style.picture.map((v) => 255 * v).join(",")})`; c.fillRect(0, 0, made.width, made.height);
    c.drawImage(draw, 0, top); c.drawImage(over, 0, top);
    c.fillStyle = style.ink; c.textBaseline = "middle"; c.font = `${15 * r}px sans-serif`;
    c.fillText(title, 12 * r, 0.5 * top, made.width - 24 * r);
    if (this.scene.kind !== "line") {
      c.textAlign = "right"; c.font = `${12 * r}px sans-serif`;
      const x = made.width - 12 * r, h = Math.min(250 * r, draw.height - 60 * r);
      c.fillText(high, x, top + 14 * r); c.drawImage(bar, x - 14 * r, top + 26 * r, 14 * r, h); c.fillText(low, x, top + h + 40 * r);
    }
    return new Promise((done) => made.toBlob(done, "image/png"));
  }
}

const parts = (text) => text.match(/[\d.]+/g).slice(0, 3).map((v) => Number(v) / 255);

function styleOf(element) {
  const own = getComputedStyle(element), of = (name) => own.getPropertyValue(name).trim();
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.length === 4 ? hex[(i + 1) / 2].repeat(2) : hex.slice(i, i + 2), 16) / 255);
  return { ink: of("--ink"), quiet: of("--quiet"), line: of("--line"), accent: of("--accent"), font: "12px system-ui, sans-serif", picture: parts(own.backgroundColor), inkParts: rgb(of("--ink")) };
}
