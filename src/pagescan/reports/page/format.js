"use strict";
// Numbers as text; the same words as the command's own output.
const format = (() => {
  const sizes = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

  function size(bytes) {
    let value = bytes, unit = 0;
    while (Math.abs(value) >= 1024 && unit < sizes.length - 1) { value /= 1024; unit++; }
    const text = unit === 0 ? Math.round(value).toString()
      : Number.isInteger(value) ? value.toString() : value.toFixed(1);
    return `${text} ${unit === 0 && text === "1" ? "byte" : sizes[unit]}`;
  }

  // Page numbers are exact in a double, addresses may not be.
  const address = (page, pageSize) => "0x" + (BigInt(page) * BigInt(pageSize)).toString(16);

  // step: what the last digit has to tell apart, in milliseconds.
  function time(milliseconds, step = 1) {
    if (step < 1 && milliseconds < 1000) return `${milliseconds.toFixed(step < 0.1 ? 3 : 1)} ms`;
    if (milliseconds < 1000 && step < 1000) return `${Math.round(milliseconds)} ms`;
    const digits = step >= 1000 ? 0 : step >= 100 ? 1 : step >= 10 ? 2 : 3;
    const seconds = milliseconds / 1000;
    if (seconds < 60) return `${seconds.toFixed(digits)} s`;
    // Rounded before it is taken apart, so that no 60 is left.
    const ticks = Math.round(seconds * 10 ** digits), base = 10 ** digits;
    const whole = Math.floor(ticks / base), rest = digits ? "." + String(ticks % base).padStart(digits, "0") : "";
    const two = (number) => String(number).padStart(2, "0");
    const minutes = Math.floor(whole / 60);
    if (minutes < 60) return `${minutes}:${two(whole % 60)}${rest}`;
    return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}${rest}`;
  }

  function percent(share) {
    if (share === 0) return "0 %";
    return share < 0.0001 ? "< 0.01 %" : `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`;
  }

  const count = (number) => Math.round(number).toLocaleString("en");
  return { size, address, time, percent, count };
})();
