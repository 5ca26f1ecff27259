//! The Dockerfile builds from what it copies, and from nothing else. No engine runs here: this
//! makes the folder that its build would begin in, and asks cargo whether that is a package.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What the first stage copies from the repository: sources, and where they go.
fn copies() -> Vec<(Vec<String>, String)> {
    let dockerfile = fs::read_to_string(Path::new(ROOT).join("Dockerfile")).unwrap();
    let mut stages = 0;
    let mut copies = Vec::new();
    for line in dockerfile.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("FROM") => stages += 1,
            Some("COPY") if stages == 1 => {
                let mut paths: Vec<_> = words.collect();
                assert!(!paths[0].starts_with("--"), "{line}");
                let target = paths.pop().unwrap();
                copies.push((paths, target));
            }
            _ => {}
        }
    }
    copies
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

#[test]
fn what_the_dockerfile_copies_is_a_package_that_cargo_can_build() {
    let folder = TempDir::new().unwrap();
    // All is left out but what is named there.
    let ignored = fs::read_to_string(Path::new(ROOT).join(".dockerignore")).unwrap();
    assert_eq!(ignored.lines().next(), Some("*"));
    for (sources, target) in copies() {
        for source in sources {
            assert!(ignored.contains(&format!("\n!{source}\n")), "{source}");
            let mut to = folder.path().join(&target);
            if target.ends_with('/') {
                to.push(&source);
            }
            copy(&Path::new(ROOT).join(&source), &to);
        }
    }
    // Any target does: cargo reads the manifest as for a build, looks into Cargo.lock, and then
    // says what there is. (`cargo metadata` passes over a target whose file is missing.)
    let output = Command::new(env!("CARGO"))
        .args(["build", "--offline", "--locked", "--bin", "none"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no bin target named `none`"), "{said}");
    assert!(folder.path().join("src/main.rs").is_file());
}
