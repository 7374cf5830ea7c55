# SPDX-License-Identifier: Apache-2.0
"""recon edit, and that every export takes the edits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_scenes import small_scene

from recon import load_run, read_splat_ply, train
from recon.cli.edited import load_edited_run
from recon.cli.main import main
from recon.formats.splat_ply import write_splat_ply
from recon.methods import SplatConfig


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps; its splats are the scene's points."""
    folder = tmp_path_factory.mktemp("edited")
    train(small_scene(folder), folder / "run", SplatConfig(steps=2, held_out_every=0))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "work")
    return tmp_path / "work" / "run"


def recon_json(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    code = main([*map(str, words), "--json"])
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code in (0, 3), printed
    return printed


def test_editing_and_taking_back(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = load_run(run).splats
    assert whole is not None
    original = (run / "splats.ply").read_bytes()
    inside = int((whole.means.norm(dim=1) <= 0.6).sum())
    report = recon_json(capsys, "edit", run, "--crop-sphere", 0, 0, 0, 0.6, "--move", -1, 0, 0)
    # Moves come first, so the sphere is about the new origin.
    shifted = int(((whole.means - torch.tensor([1.0, 0, 0])).norm(dim=1) <= 0.6).sum())
    assert report["splats"] == {"trained": len(whole), "before": len(whole), "now": shifted}
    assert [edit["text"] for edit in report["edits"]] == [
        "Move the scene",
        "Crop: keep the inside of a sphere of radius 0.6",
    ]
    report = recon_json(capsys, "edit", run, "--undo", 2, "--crop-sphere", 0, 0, 0, 0.6)
    assert report["splats"]["now"] == inside
    assert recon_json(capsys, "edit", run)["splats"]["now"] == inside
    report = recon_json(capsys, "edit", run, "--clear")
    assert (report["splats"]["now"], report["edits"], len(report["taken_back"])) == (len(whole), [], 1)
    assert recon_json(capsys, "edit", run, "--redo", 1)["splats"]["now"] == inside
    assert (run / "splats.ply").read_bytes() == original


def test_export_render_and_mesh_take_the_edits(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recon_json(capsys, "edit", run, "--crop-box", 0, 0, 0, 1, 1, 1, "--up-axis", "+x", "--metric", 0, 0, 0, 1, 0, 0, 3)
    whole, edited = load_run(run), load_edited_run(run)
    assert whole.splats is not None
    assert edited.splats is not None
    assert edited.scene.world.meters_per_unit == 1.0
    out = tmp_path / "out.ply"
    report = recon_json(capsys, "export", run, "--out", out)
    written = read_splat_ply(out)
    torch.testing.assert_close(written.means, edited.splats.means)
    assert 0 < report["splats"] == len(written) < len(whole.splats)
    assert float(written.means.abs().max()) <= 0.5 + 1e-5
    assert recon_json(capsys, "export", run, "--out", out, "--no-edits")["splats"] == len(whole.splats)
    # The picture of an edited run from a moved camera is that of the chosen splats from where it was.
    from recon.edits import edits_of, world_of
    from recon.render import RenderOptions

    world = world_of(edits_of(run))
    chosen = np.abs(world.apply(whole.splats.means.double().numpy())).max(1) <= 0.5
    from recon.rasterization import SplatRenderer

    expected = SplatRenderer(whole.splats.select(torch.from_numpy(chosen))).render(whole.scene.frames[0].camera)
    seen = edited.renderer.render(edited.scene.frames[0].camera, RenderOptions())
    assert float((seen.rgb - expected.rgb).abs().mean()) < 1e-5
    assert float(expected.alpha.max()) > 0.05


def test_meshes_and_films_are_made_of_what_was_kept(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import recon.surface
    from recon.surface import Mesh

    seen: list[Any] = []

    def fake(renderer: Any, cameras: Any, config: Any, progress: Any) -> Mesh:
        seen.append((renderer.splats, cameras[0].center_in_world))
        return Mesh(np.eye(3), np.array([[0, 1, 2]], np.int32), None)

    monkeypatch.setattr(recon.surface, "extract_mesh", fake)
    recon_json(capsys, "edit", run, "--move", 0, 0, 5, "--delete-sphere", 0, 0, 5, 0.5)
    recon_json(capsys, "mesh", run, "--out", tmp_path / "moved.ply")
    recon_json(capsys, "mesh", run, "--out", tmp_path / "still.ply", "--no-edits")
    (moved, camera), (still, camera_before) = seen
    np.testing.assert_allclose(camera - camera_before, [0, 0, 5], atol=1e-9)
    assert 0 < len(moved) < len(still)
    assert float((moved.means - torch.tensor([0, 0, 5.0])).norm(dim=1).min()) > 0.5
    film = recon_json(capsys, "render", run, "--out", tmp_path / "frames", "--seconds", 0.1, "--long-side", 32)
    assert film["frames"] >= 1


def test_a_splat_file_keeps_its_edits_beside_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "scan.ply"
    splats = load_run(run).splats
    assert splats is not None
    write_splat_ply(splats, file)
    report = recon_json(capsys, "edit", file, "--min-opacity", 0.05, "--max-size", 0.3, "--remove-floaters", 0.9)
    assert report["path"] == str(tmp_path / "scan.ply.edits.json")
    kept = (splats.opacities >= 0.05 * (1 - 1e-5)) & (splats.scales.max(1).values <= 0.3 * (1 + 1e-5))
    assert report["splats"]["now"] <= int(kept.sum())
    assert recon_json(capsys, "export", file, "--out", tmp_path / "b.ply")["splats"] == report["splats"]["now"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--crop-sphere", "0", "0", "0", "-1"], "radius is -1"),
        (["--scale", "0"], "scale is 0"),
        (["--scale", "nan"], "scale is nan"),
        (["--undo", "-1"], "--undo is -1"),
        (["--metric", "0", "0", "0", "0", "0", "0", "1"], "metric scale"),
        (["--remove-floaters", "-2"], "low is -2"),
    ],
)
def test_bad_numbers(run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["edit", str(run), *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (run / "edits.json").exists()


def test_a_broken_list_stops_exports_and_says_where(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "edits.json").write_text('{"schema": 1, "done": 1, "operations": [{"kind": "explode"}]}')
    assert main(["export", str(run), "--out", str(tmp_path / "x.ply")]) == 2
    # The message is wrapped wherever the terminal ends.
    message = "".join(capsys.readouterr().err.split())
    assert "edits.json,edit1:kindis'explode'" in message
    assert main(["edit", str(tmp_path / "nothing")]) == 2
