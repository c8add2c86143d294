"use strict";
// The data of the heat map, unpacked, with sums over any rectangle of cells in four look-ups.
class HeatData {
  static async load(raw) {
    const rows = raw.low.length, columns = raw.samples.length;
    const octets = Uint8Array.from(atob(raw.cells), (letter) => letter.charCodeAt(0));
    const stream = new Blob([octets]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer());
    const cells = new Float64Array(rows * columns);
    for (let plane = 0, scale = 1; plane < raw.planes; plane++, scale *= 256) {
      const offset = plane * cells.length;
      for (let i = 0; i < cells.length; i++) cells[i] += planes[offset + i] * scale;
    }
    return new HeatData(raw, rows, columns, cells);
  }

  constructor(raw, rows, columns, cells) {
    Object.assign(this, { raw, rows, columns, cells });
    this.pageSize = raw.page_size;
    this.times = raw.times;
    this.tops = HeatData.sums(raw.heights);
    this.pagesAbove = HeatData.sums(raw.pages);
    this.samplesBefore = HeatData.sums(raw.samples);
    this.duration = this.times[columns] || 0;
    this.height = this.tops[rows] || 0;
    const wide = columns + 1;
    this.integral = new Float64Array((rows + 1) * wide);
    for (let row = 0; row < rows; row++) {
      let line = 0;
      for (let column = 0; column < columns; column++) {
        line += cells[row * columns + column];
        this.integral[(row + 1) * wide + column + 1] = this.integral[row * wide + column + 1] + line;
      }
    }
  }

  static sums(values) {
    const sums = new Float64Array(values.length + 1);
    values.forEach((value, index) => { sums[index + 1] = sums[index] + value; });
    return sums;
  }

  // The last index whose edge is not after the value, within the cells.
  static find(edges, value) {
    let low = 0, high = edges.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (edges[middle] <= value) low = middle; else high = middle;
    }
    return low;
  }

  rowAt(y) { return HeatData.find(this.tops, y); }
  columnAt(time) { return HeatData.find(this.times, time); }

  // Written pages in rows r0 to before r1, columns c0 to before c1.
  sum(r0, r1, c0, c1) {
    const wide = this.columns + 1, all = this.integral;
    return all[r1 * wide + c1] - all[r0 * wide + c1] - all[r1 * wide + c0] + all[r0 * wide + c0];
  }

  // The written share of these cells' pages, as a mean over their samples.
  share(r0, r1, c0, c1) {
    const room = (this.pagesAbove[r1] - this.pagesAbove[r0]) * (this.samplesBefore[c1] - this.samplesBefore[c0]);
    return room ? this.sum(r0, r1, c0, c1) / room : 0;
  }

  gapBefore(row) { return row > 0 && this.raw.low[row] > this.raw.high[row - 1]; }
  name(row) { return this.raw.names[this.raw.owners[row]]; }

  // What a reader wants to know of one cell.
  describe(row, column) {
    const { raw } = this, pages = this.cells[row * this.columns + column];
    const begin = this.times[column], end = this.times[column + 1], seconds = (end - begin) / 1000;
    return {
      address: `${format.address(raw.low[row], this.pageSize)}-${format.address(raw.high[row], this.pageSize)}`,
      size: format.size(raw.pages[row] * this.pageSize),
      mapping: this.name(row),
      time: `${format.time(begin)} to ${format.time(end)}`,
      samples: raw.samples[column],
      rate: `${format.size(seconds ? pages * this.pageSize / seconds : 0)}/s`,
      share: format.percent(this.share(row, row + 1, column, column + 1)),
      pages: `${format.count(pages)} ${pages === 1 ? "page" : "pages"}`,
    };
  }
}

// Which part of everything is shown; never beyond its edges, never smaller than a few cells.
class View {
  constructor(data) { this.data = data; this.reset(); }

  reset() {
    this.time = [0, this.data.duration];
    this.rows = [0, this.data.height];
  }

  get whole() { return this.time[0] <= 0 && this.time[1] >= this.data.duration && this.wholeRows; }
  get wholeRows() { return this.rows[0] <= 0 && this.rows[1] >= this.data.height; }

  static clamp([low, high], limit, least) {
    const size = Math.min(limit, Math.max(least, high - low));
    const start = Math.max(0, Math.min(limit - size, (low + high - size) / 2));
    return [start, start + size];
  }

  setTime(range) { this.time = View.clamp(range, this.data.duration, this.data.duration / this.data.columns * 4); }
  setRows(range) { this.rows = View.clamp(range, this.data.height, this.data.height / this.data.rows * 4); }

  // factor < 1 zooms in; x and y from 0 to 1 stay where they are.
  zoom(factor, x, y, axes) {
    const scaled = ([low, high], at) => {
      const centre = low + (high - low) * at;
      return [centre + (low - centre) * factor, centre + (high - centre) * factor];
    };
    if (axes.time) this.setTime(scaled(this.time, x));
    if (axes.rows) this.setRows(scaled(this.rows, y));
  }

  // By shares of what is shown.
  pan(dx, dy) {
    const moved = ([low, high], by) => [low + (high - low) * by, high + (high - low) * by];
    this.setTime(moved(this.time, dx));
    this.setRows(moved(this.rows, dy));
  }
}

// Round numbers between low and high, about so many.
function niceTicks(low, high, most, steps) {
  const step = steps.find((size) => (high - low) / size <= most) || steps[steps.length - 1];
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) ticks.push(tick);
  return { step, ticks };
}

// Milliseconds: 1, 2, 5 by powers of ten; above a second by what clocks have.
const TIME_STEPS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]
  .concat([1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400, 604800]
    .map((seconds) => seconds * 1000));
