"use strict";
// The heat map: a canvas with its own axes; addresses downwards, time to the right.
const RAMPS = { // from little to much; "nothing" is the ground itself
  light: [[222, 235, 247], [158, 202, 225], [254, 217, 118], [253, 141, 60], [215, 48, 31], [103, 0, 13]],
  dark: [[38, 46, 84], [84, 39, 143], [158, 47, 127], [226, 89, 82], [252, 176, 80], [252, 253, 191]],
};
const RIGHT = 24; // room for half of the last time
const LOG_DECADES = 4; // the logarithmic scale begins at 0.01 %

class HeatMap {
  constructor(box, canvas, tip, readout, data, onTime, onCursor) {
    Object.assign(this, { box, canvas, tip, readout, data, onTime, onCursor });
    this.view = new View(data);
    this.scale = "log";
    this.mark = null; // {row, column} under the pointer or the keys
    this.empty = data.rows === 0 || data.columns === 0 || data.duration === 0;
    this.listen();
    this.resize();
  }

  // --- drawing

  get dark() { return matchMedia("(prefers-color-scheme: dark)").matches; }
  css(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

  resize() {
    const width = this.box.clientWidth, height = this.box.clientHeight, ratio = window.devicePixelRatio || 1;
    if (!width || !height) return;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const left = width < 600 ? 118 : 210;
    this.ratio = ratio;
    this.plot = { left, top: 4, width: Math.max(20, width - left - RIGHT), height: Math.max(20, height - 30) };
    this.point(null);
    this.draw();
  }

  draw() {
    this.queued = false;
    this.table = this.colours();
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.empty) return;
    this.drawCells(context);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    this.drawFrame(context);
    this.drawTimes(context);
    this.drawAddresses(context);
    this.drawMark(context);
  }

  queue() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => this.draw());
  }

  // 256 colours as the pixels of an image.
  colours() {
    const ramp = RAMPS[this.dark ? "dark" : "light"], table = new Uint32Array(256);
    for (let i = 0; i < 256; i++) {
      const at = i / 255 * (ramp.length - 1), low = Math.min(ramp.length - 2, Math.floor(at));
      const [r, g, b] = ramp[low].map((value, k) => Math.round(value + (ramp[low + 1][k] - value) * (at - low)));
      table[i] = (255 << 24 | b << 16 | g << 8 | r) >>> 0;
    }
    return table;
  }

  level(share) {
    const at = this.scale === "log" ? 1 + Math.log10(share) / LOG_DECADES : share;
    return Math.max(0, Math.min(255, Math.round(at * 255)));
  }

  drawCells(context) {
    const { plot, ratio, data, view } = this;
    const width = Math.round(plot.width * ratio), height = Math.round(plot.height * ratio);
    const image = context.createImageData(width, height), pixels = new Uint32Array(image.data.buffer);
    const columns = HeatMap.cellsOf(width, view.time, (time) => data.columnAt(time), data.columns);
    const rows = HeatMap.cellsOf(height, view.rows, (y) => data.rowAt(y), data.rows);
    for (let y = 0; y < height; y++) {
      const r0 = rows[2 * y], r1 = rows[2 * y + 1], line = y * width;
      if (y && r0 === rows[2 * y - 2] && r1 === rows[2 * y - 1]) {
        pixels.copyWithin(line, line - width, line);
        continue;
      }
      for (let x = 0; x < width; x++) {
        const c0 = columns[2 * x], c1 = columns[2 * x + 1];
        if (x && c0 === columns[2 * x - 2] && c1 === columns[2 * x - 1]) {
          pixels[line + x] = pixels[line + x - 1];
          continue;
        }
        const share = data.share(r0, r1, c0, c1);
        if (share > 0) pixels[line + x] = this.table[this.level(share)];
      }
    }
    context.putImageData(image, Math.round(plot.left * ratio), Math.round(plot.top * ratio));
  }

  // For each pixel the cells it shows: the first, and one past the last.
  static cellsOf(pixels, [low, high], find, count) {
    const found = new Int32Array(2 * pixels);
    for (let i = 0; i < pixels; i++) {
      const first = find(low + (high - low) * i / pixels);
      const after = find(low + (high - low) * (i + 1) / pixels);
      found[2 * i] = first;
      found[2 * i + 1] = Math.min(count, Math.max(first + 1, after));
    }
    return found;
  }

  x(time) { const { plot, view } = this; return plot.left + (time - view.time[0]) / (view.time[1] - view.time[0]) * plot.width; }
  y(top) { const { plot, view } = this; return plot.top + (top - view.rows[0]) / (view.rows[1] - view.rows[0]) * plot.height; }

  drawFrame(context) {
    const { plot } = this;
    context.lineWidth = 1;
    context.strokeStyle = this.css("--line");
    context.strokeRect(plot.left - 0.5, plot.top - 0.5, plot.width + 1, plot.height + 1);
    context.font = "12px system-ui, sans-serif";
  }

  drawTimes(context) {
    const { plot, view } = this;
    const { step, ticks } = niceTicks(view.time[0], view.time[1], Math.max(2, plot.width / 90), TIME_STEPS);
    context.fillStyle = this.css("--soft");
    context.textBaseline = "top";
    let free = 0;
    for (const tick of ticks) {
      const x = this.x(tick), text = format.time(tick, step), half = context.measureText(text).width / 2;
      const at = Math.max(plot.left, Math.min(plot.left + plot.width - 2 * half, x - half));
      if (at < free) continue;
      context.fillRect(x, plot.top + plot.height, 1, 5);
      context.fillText(text, at, plot.top + plot.height + 8);
      free = at + 2 * half + 8;
    }
  }

  // Runs of neighbouring rows of one mapping: the name beside the run, its address above if there is room.
  drawAddresses(context) {
    const { data, plot, view } = this;
    const first = data.rowAt(view.rows[0]), last = Math.min(data.rows, data.rowAt(view.rows[1]) + 1);
    let begin = first, free = 0;
    context.textBaseline = "middle";
    for (let row = first + 1; row <= last; row++) {
      const gap = row < last && data.gapBefore(row);
      if (row < last && !gap && data.raw.owners[row] === data.raw.owners[row - 1]) continue;
      free = this.drawRun(context, begin, row, free);
      if (gap) this.drawCut(context, this.y(data.tops[row]));
      begin = row;
    }
  }

  drawRun(context, begin, end, free) {
    const { data, plot, view } = this;
    const top = Math.max(plot.top, this.y(data.tops[begin])), bottom = Math.min(plot.top + plot.height, this.y(data.tops[end]));
    const tall = bottom - top >= 30, centre = Math.max((top + bottom) / 2, plot.top + 7);
    context.fillStyle = this.css("--line");
    context.fillRect(plot.left - 4, top, 3, Math.max(1, bottom - top - 1));
    if (centre - (tall ? 14 : 6) < free) return free;
    context.textAlign = "right";
    context.fillStyle = this.css("--text");
    const at = Math.min(centre, plot.top + plot.height - 7);
    const [name, perms] = HeatMap.split(data.name(begin));
    const fitted = this.fit(context, name, plot.left - 12 - context.measureText(" " + perms).width, perms);
    context.fillText(fitted, plot.left - 9, tall ? at - 7 : at);
    if (tall) {
      context.fillStyle = this.css("--soft");
      const page = data.raw.low[Math.max(begin, data.rowAt(view.rows[0]))];
      context.fillText(format.address(page, data.pageSize), plot.left - 9, at + 8);
    }
    context.textAlign = "left";
    return at + (tall ? 16 : 7);
  }

  static split(name) { const at = name.lastIndexOf(" "); return at > 0 ? [name.slice(0, at), name.slice(at + 1)] : [name, ""]; }

  // The end of a path tells more than its beginning.
  fit(context, name, room, perms) {
    let shown = name;
    while (shown.length > 4 && context.measureText(shown).width > room) shown = "…" + shown.slice(2);
    return `${shown} ${perms}`;
  }

  drawCut(context, y) {
    const { plot } = this;
    context.strokeStyle = this.css("--cut");
    context.setLineDash([5, 4]);
    context.beginPath();
    context.moveTo(plot.left - 8, Math.round(y) - 0.5);
    context.lineTo(plot.left + plot.width, Math.round(y) - 0.5);
    context.stroke();
    context.setLineDash([]);
  }

  drawMark(context) {
    if (!this.mark) return;
    const { data, plot } = this, { row, column } = this.mark;
    const x0 = Math.max(plot.left, this.x(data.times[column])), x1 = Math.min(plot.left + plot.width, this.x(data.times[column + 1]));
    const y0 = Math.max(plot.top, this.y(data.tops[row])), y1 = Math.min(plot.top + plot.height, this.y(data.tops[row + 1]));
    context.strokeStyle = this.css("--accent");
    context.lineWidth = 1.5;
    context.strokeRect(x0 - 1.5, y0 - 1.5, Math.max(1, x1 - x0) + 3, Math.max(1, y1 - y0) + 3);
    context.fillStyle = this.css("--accent");
    context.fillRect((x0 + x1) / 2 - 0.5, plot.top + plot.height, 1, 6);
    context.fillRect(plot.left - 8, (y0 + y1) / 2 - 0.5, 8, 1);
  }

  drawLegend(canvas, marks) {
    const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer), table = this.colours();
    for (let i = 0; i < pixels.length; i++) pixels[i] = table[Math.floor(i % canvas.width / canvas.width * 256)];
    context.putImageData(image, 0, 0);
    marks.textContent = this.scale === "log" ? "from 0.01 % (left) by powers of ten: 0.1 %, 1 %, 10 %, to 100 %"
      : "from 0 % (left) to 100 %, evenly";
  }

  // --- what is under the pointer or the keys

  at(event) {
    const box = this.canvas.getBoundingClientRect(), { plot } = this;
    return { x: (event.clientX - box.left - plot.left) / plot.width, y: (event.clientY - box.top - plot.top) / plot.height };
  }

  cellAt({ x, y }) {
    const { data, view } = this;
    if (x < 0 || x >= 1 || y < 0 || y >= 1) return null;
    return {
      column: data.columnAt(view.time[0] + (view.time[1] - view.time[0]) * x),
      row: data.rowAt(view.rows[0] + (view.rows[1] - view.rows[0]) * y),
    };
  }

  point(mark, tell) {
    this.mark = mark;
    this.queue();
    if (!mark) { this.tip.hidden = true; this.onCursor(null); return; }
    const { data, plot } = this, about = data.describe(mark.row, mark.column);
    const middle = (data.times[mark.column] + data.times[mark.column + 1]) / 2;
    const lines = [about.mapping, `${about.address} (${about.size})`,
      `${about.time} (${about.samples} ${about.samples === 1 ? "sample" : "samples"})`,
      `${about.rate}; ${about.pages} written, ${about.share} of the range in a sample`];
    this.tip.replaceChildren(...lines.map((line, index) => {
      const part = document.createElement(index ? "div" : "b");
      part.textContent = line;
      return part;
    }));
    this.tip.hidden = false;
    const x = this.x(middle), y = this.y(data.tops[mark.row]);
    const left = x > plot.left + plot.width / 2 ? x - this.tip.offsetWidth - 14 : x + 14;
    const below = Math.max(0, Math.min(plot.height - this.tip.offsetHeight, y + 14));
    this.tip.style.left = `${Math.max(0, left)}px`;
    this.tip.style.top = `${below}px`;
    if (tell) this.readout.textContent = lines.join("; ");
    this.onCursor(middle);
  }

  changed() {
    this.draw();
    this.onTime(this.view.time);
  }

  setTime(range) { this.view.setTime(range); this.queue(); }
  reset() { this.view.reset(); this.changed(); }
  zoom(factor, at = { x: 0.5, y: 0.5 }, axes = { time: true, rows: true }) { this.view.zoom(factor, at.x, at.y, axes); this.changed(); }

  // --- input

  listen() {
    if (this.empty) return;
    const { canvas, box } = this;
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.grab(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", () => { this.held = null; });
    canvas.addEventListener("pointercancel", () => { this.held = null; });
    canvas.addEventListener("pointerleave", () => { if (!this.held) this.point(null); });
    canvas.addEventListener("dblclick", () => this.reset());
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("blur", () => this.point(null));
  }

  wheel(event) {
    // All is shown already: let the page scroll.
    if (event.deltaY > 0 && this.view.whole) return;
    event.preventDefault();
    const at = this.at(event), clamp = (value) => Math.max(0, Math.min(1, value));
    const axes = { time: !event.altKey, rows: !event.ctrlKey };
    this.zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY / 300))), { x: clamp(at.x), y: clamp(at.y) }, axes);
    this.point(this.cellAt(at), false);
  }

  grab(event) {
    if (event.button !== 0) return;
    this.held = this.at(event);
    this.canvas.setPointerCapture(event.pointerId);
  }

  move(event) {
    const at = this.at(event);
    if (this.held && (event.buttons & 1)) {
      this.view.pan(this.held.x - at.x, this.held.y - at.y);
      this.held = at;
      this.changed();
    }
    this.point(this.cellAt(at), false);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target !== this.box) return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const arrow = arrows[event.key];
    if (arrow && event.shiftKey) { this.view.pan(arrow[0] / 5, arrow[1] / 5); this.changed(); }
    else if (arrow) this.step(...arrow);
    else if (event.key === "+" || event.key === "=") this.zoom(0.5, this.markAt());
    else if (event.key === "-") this.zoom(2, this.markAt());
    else if (event.key === "0" || event.key === "Home") this.reset();
    else if (event.key === "Escape") this.point(null);
    else return;
    event.preventDefault();
  }

  // Where the mark is, from 0 to 1; the centre where there is none in view.
  markAt() {
    if (!this.mark) return { x: 0.5, y: 0.5 };
    const { data, plot } = this, { row, column } = this.mark;
    const x = (this.x((data.times[column] + data.times[column + 1]) / 2) - plot.left) / plot.width;
    const y = (this.y((data.tops[row] + data.tops[row + 1]) / 2) - plot.top) / plot.height;
    return x >= 0 && x <= 1 && y >= 0 && y <= 1 ? { x, y } : { x: 0.5, y: 0.5 };
  }

  // A sixtieth of what is shown, at least one cell.
  step(dx, dy) {
    const at = this.markAt(), { data } = this, start = this.cellAt(at), seen = this.cellAt({
      x: Math.max(0, Math.min(0.999, at.x + dx / 60)), y: Math.max(0, Math.min(0.999, at.y + dy / 60)) });
    if (!this.mark) { this.point(start, true); return; }
    const limit = (value, count) => Math.max(0, Math.min(count - 1, value));
    if (dx) seen.column = limit(dx > 0 ? Math.max(seen.column, start.column + 1) : Math.min(seen.column, start.column - 1), data.columns);
    if (dy) seen.row = limit(dy > 0 ? Math.max(seen.row, start.row + 1) : Math.min(seen.row, start.row - 1), data.rows);
    this.point({ row: dy ? seen.row : start.row, column: dx ? seen.column : start.column }, true);
  }
}
