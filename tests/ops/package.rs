//! `make deb`: what the package holds, looked at as a linter would, and run from a scratch root.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

use super::path;

fn run(program: &str, args: &[&str]) -> String {
    let output =
        Command::new(program).args(args).current_dir(path("")).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn mode(file: &Path) -> u32 {
    std::fs::metadata(file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).permissions().mode() & 0o7777
}

#[test]
fn the_package_holds_what_it_should_and_the_program_runs_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let deb = run("deploy/deb/build", &[env!("CARGO_BIN_EXE_vtelector"), folder.path().to_str().unwrap()]);
    let deb = deb.trim();
    let version = env!("CARGO_PKG_VERSION");
    let arch = run("dpkg", &["--print-architecture"]);
    assert!(deb.ends_with(&format!("/vtelector_{version}_{}.deb", arch.trim())), "{deb}");
    let field = |name: &str| run("dpkg-deb", &["-f", deb, name]).trim().to_owned();
    assert_eq!(
        (field("Package"), field("Version"), field("Architecture")),
        ("vtelector".into(), version.into(), arch.trim().into())
    );
    assert!(field("Depends").contains("libc6") && field("Installed-Size").parse::<u64>().unwrap() > 1000);
    assert!(field("Description").lines().skip(1).all(|line| line.starts_with("  ") || line.starts_with(' ')));

    // Everything is root's, and nobody else may write it.
    for line in run("dpkg-deb", &["-c", deb]).lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[1], "root/root", "{line}");
        assert!(&words[0][5..6] != "w" && &words[0][8..9] != "w" && !words[0].contains('s'), "{line}");
    }
    let (root, control) = (at("root"), at("control"));
    run("dpkg-deb", &["-x", deb, root.to_str().unwrap()]);
    run("dpkg-deb", &["-e", deb, control.to_str().unwrap()]);
    for (file, wanted) in [
        ("usr/bin/vtelector", 0o755),
        ("lib/systemd/system/vtelector.service", 0o644),
        ("lib/systemd/system/vtelector-agent.service", 0o644),
        ("usr/lib/sysusers.d/vtelector.conf", 0o644),
        ("etc/vtelector/vtelector.toml", 0o644),
        ("etc/default/vtelector-agent", 0o644),
        ("usr/share/doc/vtelector/copyright", 0o644),
        ("usr/share/doc/vtelector/runbook.md", 0o644),
        ("usr/share/doc/vtelector/examples/vtelector.rules.yml", 0o644),
    ] {
        assert_eq!(mode(&root.join(file)), wanted, "{file}");
    }
    assert!(!root.join("usr/local").exists() && !root.join("var").exists());
    // What people change is kept at an upgrade.
    let kept = std::fs::read_to_string(control.join("conffiles")).unwrap();
    let in_etc = run("find", &[root.join("etc").to_str().unwrap(), "-type", "f", "-printf", "/etc/%P\n"]);
    let sorted = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(sorted(&kept), sorted(&in_etc));
    for script in ["postinst", "prerm"] {
        assert_eq!(mode(&control.join(script)), 0o755);
        run("sh", &["-n", control.join(script).to_str().unwrap()]);
        assert!(std::fs::read_to_string(control.join(script)).unwrap().contains("\nset -e\n"), "{script} goes on after an error");
    }
    let sums = std::fs::read_to_string(control.join("md5sums")).unwrap();
    assert!(sums.lines().any(|line| line.ends_with("  usr/bin/vtelector")));
    let said = run(root.join("usr/bin/vtelector").to_str().unwrap(), &["--version"]);
    assert_eq!(said.trim(), format!("vtelector {version}"));
}
