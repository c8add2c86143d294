"use strict";
// Puts the page together.
(async () => {
  const get = (id) => document.getElementById(id);
  try {
    const raw = JSON.parse(get("data").textContent);
    let charts = null;
    const data = await HeatData.load(raw.heat);
    const map = new HeatMap(get("heat"), get("heat-canvas"), get("heat-tip"), get("heat-readout"), data,
      (range) => { if (charts) charts.setTime(map.view.time[0] <= 0 && range[1] >= data.duration ? null : range); },
      (time) => { if (charts) charts.point(time); });
    charts = new Charts(get("charts"), raw.charts, data.duration, () => map.plot, (range) => map.setTime(range || [0, data.duration]));

    const legend = () => map.drawLegend(get("legend"), get("legend-marks"));
    legend();
    get("zoom-in").addEventListener("click", () => map.zoom(0.5));
    get("zoom-out").addEventListener("click", () => map.zoom(2));
    get("reset").addEventListener("click", () => map.reset());
    get("scale").addEventListener("change", (event) => { map.scale = event.target.value; map.draw(); legend(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { map.draw(); legend(); charts.build(); });
    new ResizeObserver(() => requestAnimationFrame(() => { map.resize(); charts.resize(); })).observe(get("heat"));

    window.pagescan = { data, map, charts };
    document.documentElement.dataset.ready = "true";
  } catch (error) {
    const notice = get("failure");
    notice.hidden = false;
    notice.textContent = `The page could not be drawn: ${error.message}`;
    document.documentElement.dataset.ready = "failed";
    throw error;
  }
})();
