// SPDX-License-Identifier: Apache-2.0
// The page: puts loading, sorting, drawing and the hand together.
//
// A picture is drawn only when its order has come back from the worker, from the very camera that the order was made
// for, with the blocks that it speaks of.  So no picture ever shows a stale order, however fast the view turns; where
// sorting takes long, pictures come less often instead.

import { Annotations } from "./annotations.js";
import { attachControls } from "./controls.js";
import { Interface } from "./interface.js";
import { Loader } from "./loading.js";
import { Navigator } from "./navigator.js";
import { Player } from "./path.js";
import { Quality } from "./quality.js";
import { Renderer, SLOT_SPLATS } from "./renderer.js";
import { bytesOf } from "./unpacking.js";
import { lengthOf, subtract } from "./vectors.js";
import { axesOf, axesOfRotation, cameraOf, viewFrom } from "./view.js";

const RESTING_MS = 160;

class Page {
  constructor(scene) {
    this.scene = scene;
    this.canvas = document.getElementById("canvas");
    this.quality = new Quality();
    this.ui = new Interface(scene, this.commands());
    const start = viewFrom({ ...scene.start, ...axesOfRotation(scene.start.rotation) });
    this.navigator = new Navigator(start, scene.extent);
    this.player = scene.path ? new Player(scene.path, start.focus) : null;
    this.annotations = new Annotations(document.getElementById("stage"), scene.annotations, (index) => this.opened(index));
    this.pending = [];
    this.waiting = new Map();
    this.sortTimes = [];
    this.pictures = 0;
    this.fixed = null;
    this.viewIndex = -1;
    this.dirty = true;
    this.sorting = false;
    this.ticking = false;
    this.lastMotion = this.lastTick = 0;
    this.startDrawing();
    this.startWorker();
    this.loader = new Loader(scene, (message, transfer) => this.worker.postMessage(message, transfer), this.renderer.slots,
      (reason) => this.ui.tell(reason));
    this.listen();
    this.loader.pump();
    this.wake();
  }

  // ---- parts --------------------------------------------------------------------------------------------------------

  startDrawing() {
    const { scene } = this, most = Math.ceil(this.quality.mostSplats / SLOT_SPLATS);
    this.renderer = new Renderer(this.canvas, {
      slots: Math.min(scene.blocks.length, most),
      degree: scene.degree,
      antialiased: scene.antialiased,
      units: scene.palette.units,
      paletteSize: scene.palette.size,
      entries: new Int8Array(bytesOf(document.getElementById("palette").textContent).buffer),
    });
  }

  startWorker() {
    const source = document.getElementById("worker").textContent;
    this.worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    this.worker.onmessage = ({ data }) => this.heard(data);
    this.worker.onerror = () => this.ui.tell("The browser does not let this page work in the background.");
  }

  listen() {
    attachControls(this.canvas, this.navigator, {
      changed: () => this.wake(),
      touched: () => this.takeOver(),
      picked: (x, y) => this.pick(x, y),
      key: (key) => this.key(key),
    });
    new ResizeObserver(() => this.redraw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
    this.canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.lost = true;
      this.ui.tell("The graphics card has stopped; waiting for it to come back.");
    });
    this.canvas.addEventListener("webglcontextrestored", () => {
      this.lost = this.sorting = false;
      this.pending = [];
      this.ui.tell("");
      this.startDrawing();
      this.loader.restart();
      this.redraw();
    });
  }

  heard(data) {
    if (data.kind === "block") {
      this.pending.push(data);
      this.loader.arrived(data.block, data.slot);
      this.showProgress();
      this.redraw();
    } else if (data.kind === "order") this.drawOrdered(data);
    else if (data.kind === "picked") {
      if (data.point) this.navigator.focusOn(data.point);
      this.wake();
    } else {
      this.sorting = this.sorting && data.of !== "sort";
      this.ui.tell(`A part of the scene cannot be read: ${data.reason}`);
    }
  }

  showProgress() {
    const { loader } = this;
    this.ui.showProgress(loader.wantedBlocks ? loader.slotOf.size / loader.wantedBlocks : 1);
  }

  // ---- pictures -----------------------------------------------------------------------------------------------------

  /** Asks for a picture even though the view rests. */
  redraw() {
    this.dirty = true;
    this.wake();
  }

  wake() {
    if (this.ticking) return;
    this.ticking = true;
    // After a rest, time begins anew.
    if (!this.busy) this.lastTick = performance.now();
    requestAnimationFrame((now) => this.tick(now));
  }

  tick(now) {
    this.ticking = false;
    const seconds = Math.min(1, Math.max(0, (now - this.lastTick) / 1000));
    this.lastTick = now;
    let moved = false;
    if (this.player?.playing) {
      this.player.update(seconds);
      this.navigator.show(this.player.view());
      this.ui.showPath(this.player);
      moved = true;
    } else moved = this.navigator.update(seconds);
    if (moved) this.lastMotion = now;
    this.dirty ||= moved;
    const moving = now - this.lastMotion < RESTING_MS && this.lastMotion > 0;
    if (this.moving && !moving) this.dirty = true;
    this.moving = moving;
    if (this.scene.folder) this.loader.pump(this.camera());
    if (this.dirty && !this.sorting && !this.lost) this.askForOrder(now);
    this.busy = moving || this.dirty || this.player?.playing || !this.loader.complete || this.navigator.flying;
    if (this.busy) this.wake();
  }

  camera() {
    if (this.fixed) return this.fixed;
    const ratio = this.quality.pixelRatio(this.canvas.clientWidth, this.canvas.clientHeight);
    return cameraOf(this.navigator.view, Math.max(1, Math.round(ratio * this.canvas.clientWidth)),
      Math.max(1, Math.round(ratio * this.canvas.clientHeight)));
  }

  askForOrder(now) {
    this.dirty = false;
    this.sorting = true;
    const camera = this.camera(), { share, splats } = this.quality.of(this.moving && !this.fixed);
    this.asked = { camera, share, now, moving: this.moving };
    const spare = this.spare;
    this.spare = null;
    this.worker.postMessage(
      { kind: "sort", id: this.pictures, camera, slots: this.loader.slotsFor(splats), slotSplats: SLOT_SPLATS, spare },
      spare ? [spare.buffer] : [],
    );
  }

  drawOrdered({ order, count, milliseconds }) {
    this.sorting = false;
    if (this.lost) return;
    const { camera, share } = this.asked, { renderer } = this;
    for (const { slot, parts } of this.pending) renderer.upload(slot, parts);
    this.pending = [];
    renderer.setOrder(order, count);
    this.spare = order;
    // The canvas changes its size, which empties it, only now that it is drawn to.
    if (this.canvas.width !== camera.width || this.canvas.height !== camera.height) {
      Object.assign(this.canvas, { width: camera.width, height: camera.height });
    }
    renderer.draw(camera, this.background(), share);
    this.drawn = { camera, count, share };
    this.pictures++;
    this.sortTimes.push(milliseconds);
    if (this.sortTimes.length > 500) this.sortTimes.shift();
    if (count || this.loader.complete) this.ui.reveal();
    this.placeAnnotations(camera);
    this.timePicture();
    for (const [resolve, holds] of this.waiting) {
      if (!holds()) continue;
      this.waiting.delete(resolve);
      resolve();
    }
    if (this.dirty) this.wake();
  }

  background() {
    return this.scene.background ?? this.ui.themeBackground();
  }

  placeAnnotations(camera) {
    if (!this.scene.annotations.length) return;
    const ratio = camera.width / Math.max(1, this.canvas.clientWidth);
    this.annotations.place({
      ...camera, width: camera.width / ratio, height: camera.height / ratio,
      fx: camera.fx / ratio, fy: camera.fy / ratio, cx: camera.cx / ratio, cy: camera.cy / ratio,
    });
  }

  /** Tells how long pictures of a motion take, from one drawn to the next shown. */
  timePicture() {
    const now = performance.now();
    if (this.asked.moving && this.lastDrawn && this.wasMoving) this.quality.note(now - this.lastDrawn);
    this.lastDrawn = now;
    this.wasMoving = this.asked.moving;
  }

  // ---- what people do -----------------------------------------------------------------------------------------------

  takeOver() {
    this.fixed = null;
    if (!this.player?.playing) return;
    this.player.playing = false;
    this.ui.showPath(this.player);
  }

  flyTo(view) {
    this.takeOver();
    this.navigator.flyTo(view);
    this.redraw();
  }

  pick(x, y) {
    const camera = this.camera(), ratio = camera.width / this.canvas.clientWidth;
    this.worker.postMessage({ kind: "pick", camera, x: x * ratio, y: y * ratio, radius: 7 * ratio });
  }

  opened(index) {
    if (index >= 0) this.flyTo(this.annotations.viewOf(index, this.navigator.view, this.scene.extent));
    this.redraw();
  }

  showView(index) {
    const { views } = this.scene;
    if (!views.length) return;
    this.viewIndex = (index + views.length) % views.length;
    const view = views[this.viewIndex], axes = axesOfRotation(view.rotation);
    this.ui.markView(this.viewIndex);
    const distance = Math.max(lengthOf(subtract(this.navigator.start.focus, view.eye)), 0.05 * this.scene.extent);
    this.flyTo(viewFrom({ ...axes, eye: view.eye, distance, fov: view.fov, aspect: view.aspect }));
  }

  /** Shows the annotation of a number key, or one of nine views spread over the photographs where there are none. */
  numbered(number) {
    const { annotations, views } = this.scene;
    if (annotations.length) this.annotations.show(number - 1);
    else if (views.length) this.showView(Math.round(((number - 1) / 8) * (views.length - 1)));
  }

  commands() {
    return {
      home: () => {
        this.annotations.close();
        this.ui.markView((this.viewIndex = -1));
        this.flyTo(this.navigator.start);
      },
      play: () => this.playOrPause(),
      scrub: (share) => {
        if (!this.player) return;
        this.fixed = null;
        this.player.playing = false;
        this.player.time = share * this.player.seconds;
        this.navigator.show(this.player.view());
        this.ui.showPath(this.player);
        this.redraw();
      },
      pins: () => {
        this.annotations.toggle();
        this.ui.showPins(this.annotations.visible);
        this.redraw();
      },
      photos: () => this.ui.toggleViews(),
      showView: (index) => this.showView(index),
      theme: () => {
        this.ui.toggleTheme();
        this.redraw();
      },
      full: () => this.ui.toggleFullScreen(),
      help: () => this.ui.toggleHelp(),
      bare: () => this.ui.toggleBare(),
    };
  }

  playOrPause() {
    if (!this.player) return;
    this.fixed = null;
    this.annotations.close();
    if (this.player.playing) this.player.playing = false;
    else this.player.play();
    this.ui.showPath(this.player);
    this.redraw();
  }

  /** Acts on a key and returns whether it means anything. */
  key(key) {
    const commands = this.ui.commands;
    const meanings = {
      "?": commands.help, h: commands.help, "0": commands.home, Home: commands.home, " ": commands.play, f: commands.full,
      t: commands.theme, p: commands.photos, n: commands.pins, u: commands.bare,
      "[": () => this.showView(this.viewIndex - 1), "]": () => this.showView(this.viewIndex + 1),
      "+": () => this.navigator.zoom(0.85), "=": () => this.navigator.zoom(0.85), "-": () => this.navigator.zoom(1 / 0.85),
      Escape: () => {
        if (!this.ui.closeAll()) this.annotations.close();
      },
    };
    const action = meanings[key] ?? meanings[key.toLowerCase()];
    if (action) action();
    else if (key >= "1" && key <= "9") this.numbered(Number(key));
    else return false;
    this.wake();
    return true;
  }

  /** Returns a promise that is kept after the next picture for which `holds` is true. */
  pictureWhere(holds) {
    return new Promise((resolve) => {
      this.waiting.set(resolve, holds);
      this.redraw();
    });
  }
}

/** What tests and pages around this one may use. */
function publicFace(page) {
  return {
    /** Kept when everything is loaded and drawn. */
    ready: () => page.pictureWhere(() => page.loader.complete && !page.pending.length && !page.moving),
    /** Shows exactly what a camera sees: {width, height, fx, fy, cx, cy, cam_from_world (16 numbers, by rows)}. */
    async look({ cam_from_world: pose, ...lens }) {
      const row = (r) => pose.slice(4 * r, 4 * r + 3);
      const [right, down, forward] = [row(0), row(1), row(2)], t = [pose[3], pose[7], pose[11]];
      const eye = [0, 1, 2].map((k) => -(right[k] * t[0] + down[k] * t[1] + forward[k] * t[2]));
      const fixed = { ...lens, right, down, forward, eye };
      page.fixed = fixed;
      await page.pictureWhere(() => page.drawn.camera === fixed && page.drawn.share === 1);
    },
    /** Returns the canvas as a PNG's data URL. */
    picture() {
      page.renderer.draw(page.drawn.camera, page.background(), page.drawn.share);
      return page.canvas.toDataURL("image/png");
    },
    /** Gives the view back to the hand. */
    release() {
      page.fixed = null;
      page.redraw();
    },
    /** Keeps full quality in motion, too. */
    pin: () => (page.quality.pinned = true),
    state: () => ({
      splats: page.loader.loadedSplats,
      drawn: page.drawn?.count ?? 0,
      complete: page.loader.complete,
      pictures: page.pictures,
      moving: Boolean(page.moving),
      sortMilliseconds: [...page.sortTimes],
      view: page.navigator.view,
      axes: axesOf(page.navigator.view),
      playing: Boolean(page.player?.playing),
      time: page.player?.time ?? 0,
      annotation: page.annotations.open,
      float: page.renderer.float,
    }),
  };
}

function open() {
  const scene = JSON.parse(document.getElementById("scene").textContent);
  const fail = (text) => {
    const message = document.getElementById("message");
    message.textContent = text;
    message.hidden = false;
    document.body.classList.add("failed");
  };
  if (scene.folder && location.protocol === "file:") {
    fail("This scene is loaded in parts, which browsers refuse for files: put the folder on a web server and open it there.");
    return;
  }
  if (typeof DecompressionStream === "undefined") {
    fail("This browser is too old to unpack the scene. Any browser of 2023 or later will do.");
    return;
  }
  try {
    window.recon = publicFace(new Page(scene));
  } catch (error) {
    fail(error.message);
  }
}

open();
