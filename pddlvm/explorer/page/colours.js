// Colour maps as stops from dark to bright, and how numbers are written.

const STOPS = {
  viridis: ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"],
  magma: ["000004", "180f3d", "440f76", "721f81", "9e2f7f", "cd4071", "f1605d", "fd9668", "feca8d", "fcfdbf"],
};
const SIZE = 256;

const channel = (stop, i) => parseInt(stop.slice(2 * i, 2 * i + 2), 16);

// RGBA of 256 colours.
export function table(name) {
  const stops = STOPS[name], found = new Uint8Array(4 * SIZE);
  for (let k = 0; k < SIZE; k++) {
    const s = (k / (SIZE - 1)) * (stops.length - 1), i = Math.min(Math.floor(s), stops.length - 2);
    for (let c = 0; c < 3; c++) {
      found[4 * k + c] = channel(stops[i], c) + (s - i) * (channel(stops[i + 1], c) - channel(stops[i], c));
    }
    found[4 * k + 3] = 255;
  }
  return found;
}

export function drawBar(canvas, name) {
  const colours = table(name), context = canvas.getContext("2d"), image = context.createImageData(1, SIZE);
  for (let k = 0; k < SIZE; k++) image.data.set(colours.subarray(4 * (SIZE - 1 - k), 4 * (SIZE - k)), 4 * k);
  const strip = new OffscreenCanvas(1, SIZE);
  strip.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(strip, 0, 0, canvas.width, canvas.height);
}

// A number in a few digits.
export function written(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e5) return value.toExponential(digits - 1).replace("e+", "e");
  return String(Number(value.toPrecision(digits)));
}

// Steps of 1, 2 or 5 between two numbers.
export function ticks(low, high, most) {
  const raw = (high - low) / most;
  if (!(raw > 0)) return [];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((s) => s * power).find((s) => s >= raw * 0.999);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step);
  return found;
}
