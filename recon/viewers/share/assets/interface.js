// SPDX-License-Identifier: Apache-2.0
// Everything on the page but the picture: buttons, lists, the help, progress and messages.

const byId = (id) => document.getElementById(id);

export class Interface {
  /** @param scene the page's description. @param commands functions by name, which buttons and rows call. */
  constructor(scene, commands) {
    this.commands = commands;
    this.help = byId("help");
    this.panel = byId("views");
    this.progress = byId("progress");
    this.message = byId("message");
    for (const button of document.querySelectorAll("[data-command]")) {
      button.addEventListener("click", () => commands[button.dataset.command]());
    }
    byId("play").hidden = byId("scrub").hidden = !scene.path;
    byId("pins").hidden = !scene.annotations.length;
    byId("photos").hidden = !scene.views.length;
    byId("full").hidden = !document.fullscreenEnabled;
    this.fillViews(scene);
    this.scrub = byId("scrub");
    this.scrub.addEventListener("input", () => commands.scrub(Number(this.scrub.value)));
    this.help.addEventListener("click", (event) => {
      if (event.target === this.help) this.help.close();
    });
  }

  fillViews(scene) {
    const list = this.panel.querySelector("ol");
    scene.views.forEach((view, index) => {
      const row = document.createElement("li"), button = document.createElement("button");
      button.textContent = view.name;
      button.addEventListener("click", () => this.commands.showView(index));
      row.append(button);
      list.append(row);
    });
    this.panel.querySelector("h2 span").textContent = String(scene.views.length);
  }

  markView(index) {
    this.panel.querySelectorAll("li").forEach((row, k) => {
      row.classList.toggle("open", k === index);
      if (k === index && !this.panel.hidden) row.scrollIntoView({ block: "nearest" });
    });
  }

  toggleViews() {
    this.panel.hidden = !this.panel.hidden;
    byId("photos").setAttribute("aria-pressed", String(!this.panel.hidden));
  }

  toggleHelp() {
    if (this.help.open) this.help.close();
    else this.help.showModal();
  }

  showPath(player) {
    byId("play").classList.toggle("playing", player.playing);
    byId("play").setAttribute("aria-label", player.playing ? "Pause the film" : "Play the film");
    this.scrub.value = String(player.seconds ? player.time / player.seconds : 0);
  }

  showPins(visible) {
    byId("pins").setAttribute("aria-pressed", String(visible));
  }

  /** Shows how much has been loaded, 0 to 1; the line goes away at the end. */
  showProgress(share) {
    this.progress.style.transform = `scaleX(${share})`;
    this.progress.classList.toggle("done", share >= 1);
  }

  /** Takes the poster away, once there is something to see. */
  reveal() {
    byId("poster").classList.add("gone");
  }

  /** Tells people what is wrong; an empty text takes it back. */
  tell(text) {
    this.message.textContent = text;
    this.message.hidden = !text;
  }

  toggleTheme() {
    const dark = document.documentElement.dataset.theme === "dark"
      || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "light" : "dark";
  }

  /** Returns the colour behind the scene where it goes with the theme: three numbers. */
  themeBackground() {
    const text = getComputedStyle(document.documentElement).getPropertyValue("--backdrop").trim();
    return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16) / 255);
  }

  toggleBare() {
    document.body.classList.toggle("bare");
  }

  toggleFullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else document.documentElement.requestFullscreen?.().catch(() => {});
  }

  /** Closes what lies over the picture and returns whether there was anything. */
  closeAll() {
    const any = this.help.open || !this.panel.hidden || document.body.classList.contains("bare");
    if (this.help.open) this.help.close();
    if (!this.panel.hidden) this.toggleViews();
    document.body.classList.remove("bare");
    return any;
  }
}
