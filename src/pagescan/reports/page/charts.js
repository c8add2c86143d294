"use strict";
// The line charts: uPlot, with our units and colours. Zooming in time is shared with the heat map.
class Charts {
  // layout() tells where the heat map's cells begin, so that times stand under one another.
  constructor(box, charts, duration, layout, onTime) {
    Object.assign(this, { box, charts, duration, layout, onTime });
    this.range = null;
    this.plots = [];
    this.build();
  }

  css(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

  // Anew also when light and dark change, since uPlot keeps the colours of its legend.
  build() {
    this.plots.forEach((plot) => plot.destroy());
    this.box.replaceChildren();
    this.plots = this.charts.map((chart) => this.one(chart));
    this.setTime(this.range);
  }

  one(chart) {
    const holder = document.createElement("div"), title = document.createElement("h2"), note = document.createElement("p");
    holder.className = "chart";
    title.textContent = chart.title;
    note.textContent = chart.note;
    holder.append(title, note);
    this.box.append(holder);
    const plot = new uPlot(this.options(chart), [chart.times, ...chart.lines.map((line) => line.values)], holder);
    this.nameLegend(plot);
    return plot;
  }

  get width() { return Math.max(200, this.box.clientWidth); }

  options(chart) {
    const value = chart.unit === "pages" ? format.count : (bytes) => format.size(bytes) + (chart.unit === "bytes/s" ? "/s" : "");
    const axis = { stroke: () => this.css("--soft"), grid: { stroke: () => this.css("--line"), width: 1 },
      ticks: { stroke: () => this.css("--line"), width: 1 }, font: "12px system-ui, sans-serif" };
    const powers = Array.from({ length: 60 }, (_, power) => 2 ** power);
    return {
      width: this.width, height: 220, ms: 1, padding: [8, RIGHT, 0, 0],
      cursor: { sync: { key: "time" }, drag: { x: true, y: false }, y: false, points: { size: 6 } },
      scales: { x: { time: false, range: (_, low, high) => [low, high] }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.05 : 1] } },
      axes: [
        { ...axis, incrs: TIME_STEPS, space: 80, values: (_, ticks, __, ___, step) => ticks.map((tick) => format.time(tick, step)) },
        { ...axis, size: () => this.layout().left, values: (_, ticks) => ticks.map(value), ...(chart.unit === "pages" ? {} : { incrs: powers }) },
      ],
      series: [
        { label: "time", value: (_, time) => (time == null ? "-" : format.time(time)) },
        ...chart.lines.map((line, index) => ({
          label: line.name, show: line.shown, stroke: this.css(line.peak ? "--soft" : `--series-${index % 7}`),
          width: line.peak ? 0.7 : 1.5, dash: line.peak ? [4, 3] : undefined, points: { show: chart.times.length < 3 },
          value: (_, number) => (number == null ? "-" : value(number)),
        })),
      ],
      hooks: { setScale: [(plot, key) => { if (key === "x" && !this.quiet) this.zoomed(plot); }] },
    };
  }

  // The legend's entries switch lines on and off; by keys, too.
  nameLegend(plot) {
    plot.root.querySelectorAll(".u-legend .u-series").forEach((row, index) => {
      const label = row.querySelector("th");
      if (!index || !label) return;
      label.tabIndex = 0;
      label.setAttribute("role", "button");
      label.title = "show or hide";
      label.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        plot.setSeries(index, { show: !plot.series[index].show });
      });
    });
  }

  zoomed(plot) {
    const { min, max } = plot.scales.x;
    if (min == null || max == null) return;
    // A double click shows all of a chart's points: then all of the recording is meant.
    const times = plot.data[0], whole = min <= times[0] && max >= times[times.length - 1];
    this.setTime(whole ? null : [min, max]);
    this.onTime(this.range);
  }

  // null: the whole recording.
  setTime(range) {
    this.range = range;
    this.quiet = true;
    const [min, max] = range || [0, this.duration];
    if (max > min) this.plots.forEach((plot) => plot.setScale("x", { min, max }));
    // uPlot sets its scales in a microtask.
    queueMicrotask(() => { this.quiet = false; });
  }

  // The values at a time, in every legend; null takes them away.
  point(time) {
    for (const plot of this.plots) {
      const left = time == null ? -10 : plot.valToPos(time, "x");
      plot.setCursor({ left, top: time == null ? -10 : 10 }, false);
    }
  }

  resize() { this.plots.forEach((plot) => plot.setSize({ width: this.width, height: 220 })); }
}
