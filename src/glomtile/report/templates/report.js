"use strict";
// Zoomable images, sortable tables. The page can be read without it.
(() => {
  const one = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  document.documentElement.classList.add("js");

  // An image in a frame: fitted, zoomed around a point, moved up to its edges.
  class Stage {
    constructor(frame) {
      this.frame = frame;
      this.canvas = one(".canvas", frame);
      this.most = 16;
      this.pointers = new Map();
      this.moved = 0;
      frame.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
      frame.addEventListener("pointerdown", (event) => this.down(event));
      frame.addEventListener("pointermove", (event) => this.move(event));
      for (const kind of ["pointerup", "pointercancel"]) {
        frame.addEventListener(kind, (event) => this.pointers.delete(event.pointerId));
      }
      frame.addEventListener("keydown", (event) => this.key(event));
      new ResizeObserver(() => this.place()).observe(frame);
    }

    show(width, height) {
      this.width = width;
      this.height = height;
      this.fit();
    }

    fit() {
      this.scale = 1;
      this.x = this.y = 0.5;
      this.place();
    }

    // Screen pixels per image pixel when the whole image is visible.
    get fitted() {
      return Math.min(this.frame.clientWidth / this.width, this.frame.clientHeight / this.height) || 1;
    }

    place() {
      if (!this.width) return;
      const size = this.fitted * this.scale;
      const [across, down] = [this.width * size, this.height * size];
      const [wide, high] = [this.frame.clientWidth, this.frame.clientHeight];
      const hold = (at, length, space) =>
        length <= space ? 0.5 : clamp(at, space / 2 / length, 1 - space / 2 / length);
      this.x = hold(this.x, across, wide);
      this.y = hold(this.y, down, high);
      const style = this.canvas.style;
      style.width = `${across}px`;
      style.height = `${down}px`;
      style.transform = `translate(${wide / 2 - this.x * across}px, ${high / 2 - this.y * down}px)`;
      this.frame.classList.toggle("zoomed", this.scale > 1);
      this.frame.dataset.scale = this.scale.toFixed(2);
    }

    // The image point at a position on the screen stays there.
    zoom(factor, clientX, clientY) {
      const scale = clamp(this.scale * factor, 1, this.most);
      const frame = this.frame.getBoundingClientRect();
      const away = [
        clientX === undefined ? 0 : clientX - frame.left - frame.width / 2,
        clientY === undefined ? 0 : clientY - frame.top - frame.height / 2,
      ];
      const [before, after] = [this.fitted * this.scale, this.fitted * scale];
      this.x += (away[0] / this.width) * (1 / before - 1 / after);
      this.y += (away[1] / this.height) * (1 / before - 1 / after);
      this.scale = scale;
      this.place();
    }

    showPart(left, top, width, height) {
      const fits = Math.min(this.frame.clientWidth / width, this.frame.clientHeight / height);
      this.scale = clamp((0.8 * fits) / this.fitted, 1, this.most);
      this.x = (left + width / 2) / this.width;
      this.y = (top + height / 2) / this.height;
      this.place();
    }

    by(across, down) {
      const size = this.fitted * this.scale;
      this.x += across / (this.width * size);
      this.y += down / (this.height * size);
      this.place();
    }

    wheel(event) {
      // Scrolling the page must not zoom an image under the pointer.
      if (!event.ctrlKey && !this.frame.closest("dialog")) return;
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
    }

    down(event) {
      if (event.pointerType === "mouse" && event.button) return;
      this.pointers.set(event.pointerId, event);
      if (this.pointers.size === 1) this.moved = 0;
      if (this.scale > 1 || this.pointers.size > 1) this.frame.setPointerCapture(event.pointerId);
    }

    move(event) {
      const before = this.pointers.get(event.pointerId);
      if (!before) return;
      this.moved += Math.hypot(event.clientX - before.clientX, event.clientY - before.clientY);
      if (this.pointers.size === 2) {
        const [other] = [...this.pointers.values()].filter((p) => p.pointerId !== event.pointerId);
        const apart = (p) => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY) || 1;
        this.zoom(
          apart(event) / apart(before),
          (event.clientX + other.clientX) / 2,
          (event.clientY + other.clientY) / 2,
        );
      } else {
        this.by(before.clientX - event.clientX, before.clientY - event.clientY);
      }
      this.pointers.set(event.pointerId, event);
    }

    key(event) {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const step = Math.min(this.frame.clientWidth, this.frame.clientHeight) / 6;
      const actions = {
        "+": () => this.zoom(1.4),
        "=": () => this.zoom(1.4),
        "-": () => this.zoom(1 / 1.4),
        0: () => this.fit(),
        ArrowLeft: () => this.by(-step, 0),
        ArrowRight: () => this.by(step, 0),
        ArrowUp: () => this.by(0, -step),
        ArrowDown: () => this.by(0, step),
      };
      const action = actions[event.key];
      if (!action || (event.key.startsWith("Arrow") && this.scale === 1)) return;
      event.preventDefault();
      action();
    }
  }

  function zoomButtons(within, stage) {
    for (const button of all("[data-zoom]", within)) {
      const way = button.dataset.zoom;
      button.addEventListener("click", () =>
        way === "fit" ? stage.fit() : stage.zoom(way === "in" ? 1.6 : 1 / 1.6),
      );
    }
  }

  // A copy of outlines with ids of its own.
  function copyOf(marks, suffix) {
    const copy = marks.cloneNode(true);
    for (const element of all("[id]", copy)) element.id += suffix;
    for (const use of all("use", copy)) use.setAttribute("href", use.getAttribute("href") + suffix);
    for (const group of all("[clip-path]", copy)) {
      group.setAttribute("clip-path", group.getAttribute("clip-path").replace(")", `${suffix})`));
    }
    return copy;
  }

  // The scored images: their grid, and one of them enlarged.
  const grid = one("#cards");
  if (grid) {
    const cards = all(".card", grid);
    const [find, only, order, output] = ["find", "only", "order", "count"].map((n) => one(`#card-${n}`));
    const number = (card, key) => Number(card.dataset[key]);
    const orders = {
      rank: (a, b) => number(a, "rank") - number(b, "rank"),
      name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }),
      fn: (a, b) => number(b, "fn") - number(a, "fn") || orders.rank(a, b),
      fp: (a, b) => number(b, "fp") - number(a, "fp") || orders.rank(a, b),
    };
    const shown = () => all(".card:not([hidden])", grid);
    const arrange = () => {
      const word = find.value.trim().toLowerCase();
      for (const card of cards) {
        const named = card.dataset.name.toLowerCase().includes(word);
        card.hidden = !named || (only.value !== "" && !number(card, only.value));
      }
      grid.append(...cards.sort(orders[order.value]));
      output.value = `${shown().length} of ${cards.length}`;
    };
    for (const field of [find, only, order]) field.addEventListener("input", arrange);
    arrange();

    const viewer = one("#viewer");
    const frame = one("#viewer-stage");
    const stage = new Stage(frame);
    const wipe = one("#wipe");
    zoomButtons(viewer, stage);
    let current = cards[0];
    let opener = null;

    const fill = () => {
      const image = one("img", current);
      const canvas = one(".canvas", frame);
      const marks = one("svg.marks", current);
      canvas.replaceChildren();
      if (image) {
        const large = image.cloneNode();
        large.alt = current.dataset.name;
        large.loading = "eager";
        canvas.append(large);
      }
      canvas.append(copyOf(marks, "-a"), copyOf(marks, "-b"));
      one("#viewer-title").textContent = current.dataset.name;
      const lines = [one(".score", current), ...all(".why", current)].map((p) => p.textContent.trim());
      one("#viewer-why").textContent = lines.join(" · ");
      const row = shown();
      one("#viewer-place").value = `${row.indexOf(current) + 1} of ${row.length}`;
      stage.show(number(current, "width"), number(current, "height"));
    };
    const mode = () => {
      const value = one("input[name=viewer-mode]:checked").value;
      frame.dataset.mode = value;
      one("#wipe-field").hidden = value !== "wipe";
      frame.style.setProperty("--wipe", `${wipe.value}%`);
    };
    const step = (by) => {
      const row = shown();
      if (!row.length) return;
      current = row[(row.indexOf(current) + by + row.length) % row.length];
      fill();
    };
    const open = (card, from, box) => {
      current = card;
      opener = from;
      viewer.showModal();
      fill();
      mode();
      if (box) stage.showPart(box[1], box[0], box[3] - box[1], box[2] - box[0]);
      frame.focus();
    };
    for (const card of cards) {
      one(".open", card).addEventListener("click", (event) => open(card, event.currentTarget));
    }
    for (const crop of all(".crop")) {
      crop.addEventListener("click", () => {
        one("input[name=viewer-mode][value=outlines]").checked = true;
        open(document.getElementById(crop.dataset.card), crop, crop.dataset.box.split(" ").map(Number));
      });
    }
    for (const radio of all("input[name=viewer-mode]")) radio.addEventListener("change", mode);
    wipe.addEventListener("input", mode);
    one("#viewer-back").addEventListener("click", () => step(-1));
    one("#viewer-next").addEventListener("click", () => step(1));
    one("#viewer-close").addEventListener("click", () => viewer.close());
    viewer.addEventListener("close", () => opener && opener.focus());
    viewer.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const radios = all("input[name=viewer-mode]");
      if (event.key === "PageDown" || event.key === "PageUp") {
        event.preventDefault();
        step(event.key === "PageDown" ? 1 : -1);
      } else if (/^[1-6]$/.test(event.key)) {
        radios[Number(event.key) - 1].checked = true;
        mode();
      }
    });
  }

  // Tables: sorted by a click on a heading, filtered by the fields above, downloaded as shown.
  const valueOf = (row, column) => row.cells[column].textContent.trim();
  const asNumber = (text) => (text === "–" || text === "" ? NaN : Number(text.replace(/,/g, "")));
  const compare = (a, b) => {
    const [x, y] = [asNumber(a), asNumber(b)];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    if (Number.isNaN(x) !== Number.isNaN(y) && (a === "–" || b === "–" || !a || !b)) return 0;
    return a.localeCompare(b, undefined, { numeric: true });
  };
  const empty = (text) => text === "" || text === "–";

  for (const table of all("table.sortable")) {
    const rows = all("tbody tr", table);
    const body = table.tBodies[0];
    const heads = all("thead th", table);
    const tools = table.closest("section").querySelector(".tools");
    const column = (name) => heads.findIndex((head) => head.dataset.column === name);
    heads.forEach((head, at) => {
      if (head.classList.contains("fixed")) return;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        rows.sort((a, b) => {
          const [x, y] = [valueOf(a, at), valueOf(b, at)];
          if (empty(x) || empty(y)) return Number(empty(x)) - Number(empty(y));
          return up ? compare(x, y) : compare(y, x);
        });
        body.append(...rows);
      });
    });
    const [find, slide, least, whole] = ["find", "slide", "least", "whole"].map((n) => one(`.table-${n}`, tools));
    const [area, border, edge] = ["area_um2", "touches_border", "touches_tissue_edge"].map(column);
    const filter = () => {
      const word = find.value.trim().toLowerCase();
      for (const row of rows) {
        const far = least && least.value && asNumber(valueOf(row, area)) < Number(least.value);
        const cut = whole && whole.checked && [border, edge].some((at) => at >= 0 && valueOf(row, at) === "1");
        const elsewhere = slide && slide.value && row.dataset.slide !== slide.value;
        row.hidden = far || cut || elsewhere || !row.textContent.toLowerCase().includes(word);
      }
      one(".table-count", tools).value = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
    };
    for (const field of [find, slide, least, whole]) if (field) field.addEventListener("input", filter);
    filter();
    one(".download", tools).addEventListener("click", (event) => {
      const kept = heads.map((_, at) => at).filter((at) => !heads[at].classList.contains("fixed"));
      const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
      const head = kept.map((at) => heads[at].dataset.column || heads[at].textContent.trim());
      const lines = [head, ...rows.filter((row) => !row.hidden).map((row) => kept.map((at) => valueOf(row, at)))];
      const content = lines.map((line) => line.map(quoted).join(",")).join("\n") + "\n";
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([content], { type: "text/csv" }));
      link.download = event.currentTarget.dataset.name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }

  // Slides: a selected outline or row shows its crop and measurements beside the overview.
  for (const slide of all(".slide")) {
    const frame = one(".stage", slide);
    if (!frame) continue;
    const stage = new Stage(frame);
    stage.show(Number(slide.dataset.width), Number(slide.dataset.height));
    zoomButtons(slide, stage);
    const outlines = one("input.outlines", slide);
    if (outlines) {
      outlines.addEventListener("input", () => frame.classList.toggle("plain", !outlines.checked));
    }
    const paths = all("path.object", slide);
    const rowOf = (key) => one(`tr[data-object="${CSS.escape(key)}"]`);
    const keys = all(`tr[data-slide="${CSS.escape(slide.dataset.name)}"]`).map((row) => row.dataset.object);
    let chosen = null;

    const choose = (key, near) => {
      chosen = key;
      const row = rowOf(key);
      for (const path of paths) path.classList.toggle("chosen", path.dataset.object === key);
      for (const other of all("table.objects tr.chosen")) other.classList.remove("chosen");
      row.classList.add("chosen");
      one(".measures", slide).replaceChildren(...described(row, paths.find((p) => p.dataset.object === key)));
      const box = (row.dataset.box || "").split(" ").map(Number);
      if (near && box.length === 4) {
        const [top, left, height, width] = [box[0], box[1], box[2] - box[0], box[3] - box[1]];
        stage.showPart(left - width / 2, top - height / 2, 2 * width, 2 * height);
      }
    };
    const step = (by) => {
      if (!keys.length) return;
      const at = chosen === null ? (by > 0 ? 0 : keys.length - 1) : keys.indexOf(chosen) + by;
      choose(keys[(at + keys.length) % keys.length], stage.scale > 1);
    };
    for (const path of paths) {
      path.addEventListener("click", () => stage.moved < 5 && choose(path.dataset.object, false));
    }
    for (const button of all("[data-step]", slide)) {
      button.addEventListener("click", () => step(Number(button.dataset.step)));
    }
    frame.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const by = { n: 1, p: -1 }[event.key.toLowerCase()];
      if (by) step(by);
    });
    for (const key of keys) {
      one("button", rowOf(key)).addEventListener("click", () => {
        choose(key, true);
        slide.scrollIntoView({ block: "start" });
        frame.focus({ preventScroll: true });
      });
    }
  }

  function described(row, path) {
    const heads = all("thead th", row.closest("table"));
    const title = document.createElement("h4");
    const list = document.createElement("dl");
    heads.forEach((head, at) => {
      const name = head.textContent.trim();
      const value = valueOf(row, at);
      if (head.classList.contains("fixed") || name === "slide") return;
      if (name === "id" || name === "class") {
        title.textContent += (name === "id" ? `Object ${value}` : `, ${value}`);
        return;
      }
      const [term, content] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name;
      content.textContent = name.startsWith("touches") ? (value === "1" ? "yes" : "no") : value || "–";
      list.append(term, content);
    });
    const parts = [title, list];
    const small = one("img", row);
    if (small) {
      const frame = document.createElement("div");
      frame.className = "frame square";
      const image = small.cloneNode();
      image.alt = title.textContent;
      frame.append(image);
      if (path && row.dataset.box) {
        const [top, left, bottom, right] = row.dataset.box.split(" ").map(Number);
        const marks = path.ownerSVGElement.cloneNode(false);
        marks.setAttribute("viewBox", `${left} ${top} ${right - left} ${bottom - top}`);
        marks.setAttribute("aria-hidden", "true");
        const outline = path.cloneNode();
        outline.setAttribute("class", "object");
        marks.append(outline);
        frame.append(marks);
      }
      parts.splice(1, 0, frame);
    }
    return parts;
  }
})();
