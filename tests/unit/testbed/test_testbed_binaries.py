"""Where the test cluster's programs come from, and what is said when they cannot be had. The toolchain is a script."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import pytest

from testbed import binaries as module
from testbed.binaries import CannotBuild, binaries
from testbed.image import image_of, loader_of
from testbed.kuberay import FILES, MODULE, SERVICES, crd_files, crd_folder

GO = """#!/bin/sh
if [ "$1" = env ]; then echo {version}; exit 0; fi
echo "$@" >> {calls}
{build}
while [ $# -gt 0 ]; do [ "$1" = -o ] && echo built > "$2" && chmod +x "$2"; shift; done
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.delenv("HELM", raising=False)
    monkeypatch.delenv("KUBERAY_OPERATOR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    forget()


def forget() -> None:
    module._go_version.cache_clear()
    module._key.cache_clear()


class Toolchain:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.log = folder / "go", folder / "calls"
        self.folder.mkdir()
        monkeypatch.setenv("PATH", f"{self.folder}:/usr/bin:/bin")
        self.install()

    def install(self, *, version: str = "go1.24.3", build: str = "") -> None:
        program = self.folder / "go"
        program.write_text(GO.format(version=version, calls=self.log, build=build))
        program.chmod(0o755)
        forget()

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toolchain:
    return Toolchain(tmp_path, monkeypatch)


def test_a_program_is_built_once_and_said_to_be(go: Toolchain, tmp_path: Path) -> None:
    said: list[str] = []
    first = binaries(["etcd"], say=said.append)["etcd"]
    assert os.access(first, os.X_OK)
    assert first.is_relative_to(tmp_path / "cache" / "toolorchestra" / "testbed")
    assert len(said) == 2
    assert "building etcd with go1.24.3" in said[0]
    assert str(first) in said[1]
    assert binaries(["etcd"], say=said.append)["etcd"] == first
    assert len(go.calls) == 1
    assert len(said) == 2


def test_only_what_is_asked_for_is_built(go: Toolchain) -> None:
    binaries(["kube-apiserver"], say=lambda line: None)
    assert [call.split()[-1] for call in go.calls] == ["./kube-apiserver"]


def test_another_toolchain_builds_anew(go: Toolchain) -> None:
    first = binaries(["etcd"], say=lambda line: None)
    go.install(version="go1.25.0")
    assert binaries(["etcd"], say=lambda line: None) != first
    assert len(go.calls) == 2


def test_a_changed_source_builds_only_its_program_anew(
    go: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "sources"
    for name in ("etcd", "kubectl"):
        (sources / name).mkdir(parents=True)
        (sources / name / "main.go").write_text("package main\n")
    (sources / "go.mod").write_text("module x\n")
    monkeypatch.setattr(module, "MODULE", sources)
    before = binaries(["etcd", "kubectl"], say=lambda line: None)
    (sources / "etcd" / "main.go").write_text("package main // changed\n")
    forget()
    after = binaries(["etcd", "kubectl"], say=lambda line: None)
    assert after["etcd"] != before["etcd"]
    assert after["kubectl"] == before["kubectl"]
    (sources / "go.mod").write_text("module y\n")
    forget()
    assert binaries(["kubectl"], say=lambda line: None) != {"kubectl": before["kubectl"]}


def test_a_build_that_fails_says_why_and_leaves_nothing(go: Toolchain) -> None:
    go.install(build="echo 'main.go:3: no such thing' >&2; exit 1")
    with pytest.raises(CannotBuild, match=r"(?s)etcd did not build.*no such thing"):
        binaries(["etcd"], say=lambda line: None)
    go.install()
    assert binaries(["etcd"], say=lambda line: None)["etcd"].read_text() == "built\n"


def test_without_go_it_says_what_to_install_or_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotBuild) as caught:
        binaries(["kube-apiserver"])
    for hint in ("kube-apiserver", "install Go 1.24", "KUBEBUILDER_ASSETS", "TOOLORCHESTRA_TEST_KUBECONFIG"):
        assert hint in str(caught.value)


def test_an_old_go_is_named(go: Toolchain) -> None:
    go.install(version="go1.19.8")
    with pytest.raises(CannotBuild, match=r"Go 1\.24 or newer; .* is go1\.19\.8"):
        binaries(["etcd"])


def test_given_programs_are_used_and_need_no_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    (tmp_path / "etcd").write_text("")
    (tmp_path / "etcd").chmod(0o755)
    assert binaries(["etcd"]) == {"etcd": tmp_path / "etcd"}
    with pytest.raises(CannotBuild, match=r"has no program kube-apiserver"):
        binaries(["etcd", "kube-apiserver"])


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(CannotBuild, match="no such component: etc; there are etcd"):
        binaries(["etc"])


def test_a_helm_that_is_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CannotBuild, match="set HELM to a helm 3"):
        binaries(["helm"])
    monkeypatch.setenv("HELM", "helm")
    with pytest.raises(CannotBuild, match="HELM=helm is no program: install helm 3"):
        binaries(["helm"])
    (tmp_path / "helm").write_text("#!/bin/sh\n")
    (tmp_path / "helm").chmod(0o755)
    assert binaries(["helm"]) == {"helm": tmp_path / "helm"}


def test_kuberays_operator_may_be_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "manager"
    monkeypatch.setenv("KUBERAY_OPERATOR", str(program))
    with pytest.raises(CannotBuild, match=r"KUBERAY_OPERATOR=.* is no program: .* built without cgo"):
        binaries(["kuberay-operator"])
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert binaries(["kuberay-operator"]) == {"kuberay-operator": program}


def test_kuberays_crds_come_from_test_data_or_from_its_module(
    go: Toolchain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module_at = tmp_path / "module"
    go.install(build=f'[ "$2" = download ] && echo \'{{"Dir": "{module_at}"}}\'')
    monkeypatch.setenv("TEST_DATA", str(tmp_path / "data"))
    assert crd_folder() == module_at / "config" / "crd" / "bases"
    assert go.calls[-1].endswith(f"download -json {MODULE}")
    given = tmp_path / "data" / "kuberay"
    given.mkdir(parents=True)
    for name in FILES:
        (given / name).touch()
    assert crd_files() == ([given / name for name in FILES], "")
    assert crd_folder() != given, "the operator does not start without that of RayServices"
    (given / SERVICES).touch()
    assert crd_folder() == given


def test_without_go_and_crds_it_is_said_what_did_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEST_DATA", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    files, why_not = crd_files()
    assert files == []
    assert "did not run: KubeRay's CRDs are not in" in why_not
    assert "there is no Go" in why_not


def test_a_program_that_loads_libraries_is_no_image_of_its_own(tmp_path: Path) -> None:
    """It would crash-loop without a word in an image that has nothing else."""
    dynamic = Path(sys.executable).resolve()
    assert "ld-" in str(loader_of(dynamic))
    with pytest.raises(ValueError, match=r"is linked dynamically .* CGO_ENABLED=0"):
        image_of(dynamic)
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert loader_of(script) is None
    static = tmp_path / "static"
    data = bytearray(dynamic.read_bytes())
    table, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    for at in range(table, table + size * count, size):
        if struct.unpack_from("<I", data, at)[0] == 3:
            struct.pack_into("<I", data, at, 0)
    static.write_bytes(data)
    assert loader_of(static) is None
    assert image_of(static).blobs
