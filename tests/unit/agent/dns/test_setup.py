"""Telling a machine to ask the agent's DNS, and leaving it as it was."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from isthmus.agent.dns.config import Address
from isthmus.agent.dns.resolv import parse_resolv_conf
from isthmus.agent.dns.setup import Setup, SetupError
from isthmus.agent.dns.snippets import Mode, Place, SnippetError, to_snippet
from isthmus.cli.agent_dns import app
from isthmus.cli.output import CommandError

OURS = Address("127.0.0.15", 53)
RESOLV_CONF = (
    b"# by hand\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nsearch corp.example\noptions edns0"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine's file system, with odd rights on its resolv.conf."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    file = root / "etc/resolv.conf"
    file.write_bytes(RESOLV_CONF)
    file.chmod(0o640)
    os.utime(file, ns=(1_000_000_001, 2_000_000_003))
    return root


def run(root: Path, *words: str, mode: str = "resolv.conf", listen: str = "127.0.0.15:53") -> None:
    app(
        ["--mode", mode, "--listen", listen, "--root", str(root), *words],
        exit_on_error=False,
        result_action="return_value",
    )


def picture(directory: Path) -> dict[str, tuple[object, ...]]:
    """All that a backup of it would hold, but for what this program keeps for itself."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(directory.rglob("*")):
        name, status = str(path.relative_to(directory)), path.lstat()
        if name.startswith("var"):
            continue
        kind = stat.S_IFMT(status.st_mode)
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        when = status.st_mtime_ns if kind == stat.S_IFREG else 0
        found[name] = (kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, when, content)
    return found


class TestUndo:
    @pytest.mark.parametrize("mode", list(Mode))
    def test_everything_is_as_it_was(self, root: Path, mode: Mode) -> None:
        """Content, rights, times, and directories that were not there."""
        before = picture(root)

        run(root, "--write", mode=mode)
        assert picture(root) != before
        assert b"127.0.0.15" in (root / mode.path).read_bytes()
        run(root, "--undo", mode=mode)

        assert picture(root) == before
        assert not list((root / "var").rglob("*.json"))

    @pytest.mark.parametrize("target", ["../run/systemd/resolve/stub-resolv.conf", "/run/somewhere/resolv.conf"])
    def test_a_link_leads_where_it_led(self, root: Path, target: str) -> None:
        """What it led to is taken over, and left alone."""
        file = root / "etc/resolv.conf"
        behind = root / target.removeprefix("../").removeprefix("/")
        behind.parent.mkdir(parents=True)
        behind.write_text("nameserver 192.0.2.9\n")
        file.unlink()
        file.symlink_to(target)
        before = picture(root)

        run(root, "--write")
        assert not file.is_symlink()
        assert "nameserver 127.0.0.15\nnameserver 192.0.2.9\n" in file.read_text()
        assert behind.read_text() == "nameserver 192.0.2.9\n"
        run(root, "--undo")

        assert picture(root) == before

    def test_a_link_to_nowhere_and_nothing_at_all_come_back(self, root: Path) -> None:
        file = root / "etc/resolv.conf"
        file.unlink()
        for link in (None, "nowhere"):
            if link:
                file.symlink_to(link)
            before = picture(root)
            run(root, "--write")
            assert file.read_bytes().endswith(b"nameserver 127.0.0.15\n")
            run(root, "--undo")
            assert picture(root) == before

    def test_bytes_that_are_no_text_come_back(self, root: Path) -> None:
        file = root / "etc/resolv.conf"
        file.write_bytes(b"# caf\xe9\nnameserver 192.0.2.1\n")
        before = picture(root)
        run(root, "--write")
        assert b"caf\xe9" in file.read_bytes()
        run(root, "--undo")
        assert picture(root) == before

    def test_writing_twice_changes_nothing_and_keeps_the_first(
        self, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = picture(root)
        run(root, "--write")
        once = picture(root)
        run(root, "--write")
        assert "is already so" in capsys.readouterr().out
        assert picture(root) == once
        run(root, "--write", listen="127.0.0.16:53")
        assert b"127.0.0.15" not in (root / "etc/resolv.conf").read_bytes()
        run(root, "--undo")
        assert picture(root) == before

    def test_without_anything_to_undo_nothing_happens(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = picture(root)
        run(root, "--undo")
        assert "nothing to undo" in capsys.readouterr().out
        assert picture(root) == before

    @pytest.mark.parametrize("words", ["--write", "--undo"])
    @pytest.mark.parametrize("change", ["edited", "linked", "gone"])
    def test_what_somebody_else_changed_is_left_alone(self, root: Path, words: str, change: str) -> None:
        file = root / "etc/resolv.conf"
        run(root, "--write")
        if change == "edited":
            file.write_text("nameserver 10.0.0.1\n")
        else:
            file.unlink()
            if change == "linked":
                file.symlink_to("elsewhere")
        before = picture(root)

        with pytest.raises(CommandError, match="somebody else changed it after dns-setup wrote it") as refused:
            run(root, words, listen="127.0.0.17:53")

        assert "dns-setup/resolv.conf.json" in str(refused.value)
        assert picture(root) == before

    def test_who_has_put_it_back_himself_may_write_again_and_undo(self, root: Path) -> None:
        file = root / "etc/resolv.conf"
        run(root, "--write")
        file.write_bytes(RESOLV_CONF)
        run(root, "--undo")
        assert file.read_bytes() == RESOLV_CONF
        run(root, "--write")
        assert b"127.0.0.15" in file.read_bytes()

    def test_a_crash_between_keeping_and_writing_does_no_harm(self, root: Path) -> None:
        """The record is there, the file is not written yet, or there is half of one beside it."""
        file, record = root / "etc/resolv.conf", root / "state/record.json"
        setup = Setup(file, record)
        setup.write(lambda _: b"ours\n")
        kept = record.read_bytes()
        setup.undo()
        record.parent.mkdir(exist_ok=True)
        record.write_bytes(kept)
        (file.parent / ".resolv.conf.isthmus-new").write_bytes(b"ou")

        assert setup.write(lambda _: b"other\n")
        assert file.read_bytes() == b"other\n"
        assert setup.undo()
        assert file.read_bytes() == RESOLV_CONF
        assert sorted(p.name for p in file.parent.iterdir()) == ["resolv.conf"]

    def test_a_damaged_record_is_not_guessed_at(self, root: Path) -> None:
        run(root, "--write")
        record = next((root / "var").rglob("*.json"))
        record.write_bytes(b"{")
        with pytest.raises(CommandError, match=r"resolv.conf.json is damaged .* by hand"):
            run(root, "--undo")

    def test_what_is_no_file_is_refused(self, root: Path) -> None:
        file = root / "etc/resolv.conf"
        file.unlink()
        file.mkdir()
        with pytest.raises(SetupError, match="neither a file nor a link"):
            Setup(file, root / "record.json").write(lambda _: b"")


class TestSnippets:
    def test_printing_changes_nothing(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = picture(root)
        run(root)
        shown = capsys.readouterr()
        run(root, "--print")
        assert capsys.readouterr().out == shown.out
        assert "nameserver 127.0.0.15\n" in shown.out
        assert f"this would be {root}/etc/resolv.conf" in shown.err
        assert picture(root) == before
        run(root, "--write")
        assert (root / "etc/resolv.conf").read_text() == shown.out
        run(root)
        assert capsys.readouterr().out.endswith(shown.out)

    def test_resolv_conf_keeps_what_was_there_behind_us(self) -> None:
        """Two servers of the three, for the time when the agent is down; the C library looks at three in all."""
        text = to_snippet(Mode.RESOLV_CONF, Place((OURS, Address("127.0.0.1", 15053)), ("mesh",)), RESOLV_CONF)
        found = parse_resolv_conf(text)
        assert [a.host for a in found.nameservers] == ["127.0.0.15", "192.0.2.1", "192.0.2.2"]
        assert found.search == ("corp.example",)
        assert b"# by hand\n" in text
        assert text.endswith(b"options edns0\n")

    @pytest.mark.parametrize(("musl", "options"), [(True, b""), (False, b"options rotate timeout:1\n")])
    def test_no_other_server_where_all_would_be_asked(self, musl: bool, options: bytes) -> None:
        text = to_snippet(Mode.RESOLV_CONF, Place((OURS,), ("mesh",), musl=musl), b"nameserver 192.0.2.1\n" + options)
        assert [a.host for a in parse_resolv_conf(text).nameservers] == ["127.0.0.15"]

    def test_resolv_conf_cannot_name_a_port(self, root: Path) -> None:
        with pytest.raises(SnippetError, match=r"cannot name a port, and the DNS listens on 127.0.0.1:15053: let it"):
            to_snippet(Mode.RESOLV_CONF, Place((Address("127.0.0.1", 15053),), ("mesh",)), b"")
        before = picture(root)
        with pytest.raises(CommandError, match="cannot name a port"):
            run(root, "--write", listen="127.0.0.1:15053")
        assert picture(root) == before
        assert not (root / "var").exists()

    def test_systemd_resolved_is_told_the_domains(self) -> None:
        place = Place((Address("127.0.0.1", 15053), Address("::1", 15053)), ("mesh",), ("service.consul",))
        lines = to_snippet(Mode.SYSTEMD_RESOLVED, place, b"").decode().splitlines()
        assert lines[1:] == [
            *("[Resolve]", "DNS=", "DNS=127.0.0.1:15053 [::1]:15053", "Domains=default.mesh ~mesh ~service.consul")
        ]

    @pytest.mark.parametrize("name", ["resolved.conf", "resolved.conf.d/site.conf"])
    def test_servers_that_systemd_resolved_has_must_be_known_to_the_agent(
        self, root: Path, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It asks one of all that it has, and that one may not know the mesh."""
        file = root / "etc/systemd" / name
        file.parent.mkdir(parents=True)
        file.write_text("[Resolve]\nDNS=10.0.0.1\nDNS=\nDNS = 192.0.2.1 192.0.2.2\n")
        before = picture(root)
        with pytest.raises(CommandError, match=rf"{name} names DNS servers.* `upstream` .*\(192.0.2.1, 192.0.2.2\)"):
            run(root, "--write", mode="systemd-resolved")
        assert picture(root) == before

        config = root.parent / "agent.yaml"
        config.write_text("dns: {upstream: [192.0.2.1, 192.0.2.2]}\n")
        run(root, "--config", str(config), mode="systemd-resolved")
        assert "DNS=127.0.0.15:53\n" in capsys.readouterr().out

    def test_an_agent_without_dns_is_not_asked(self, root: Path) -> None:
        config = root.parent / "agent.yaml"
        config.write_text("dns: {enabled: false}\n")
        with pytest.raises(CommandError, match=r"the agent answers no names: write `dns: \{\}` in it"):
            app(["--mode", "dnsmasq", "--config", str(config), "--root", str(root)], exit_on_error=False)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--write", "--undo"], "exclude each other"),
            (["--listen", "nonsense"], "--listen: 'nonsense': expected address:port"),
            (["--config", "gone.yaml"], "gone.yaml: No such file"),
        ],
    )
    def test_wrong_words_change_nothing(self, root: Path, words: list[str], message: str) -> None:
        before = picture(root)
        with pytest.raises(CommandError, match=message):
            run(root, *words)
        assert picture(root) == before
