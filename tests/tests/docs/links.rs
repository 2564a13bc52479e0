//! Links between documents.

use crate::markdown::{anchor, headings, links};
use crate::repository::{files, none, read, shown};

#[test]
fn every_relative_link_leads_somewhere() {
    let mut complaints = Vec::new();
    for file in files(&[".md"]) {
        for target in links(&read(&file)) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, fragment) = target.split_once('#').unwrap_or((&target, ""));
            let folder = file.parent().expect("a file has a folder");
            let aim = if path.is_empty() { file.clone() } else { folder.join(path) };
            if !aim.exists() {
                complaints.push(format!("{}: {target} does not exist", shown(&file)));
                continue;
            }
            let has = || headings(&read(&aim)).into_iter().any(|heading| anchor(heading) == fragment);
            if !fragment.is_empty() && !has() {
                complaints.push(format!("{}: {target} names no heading", shown(&file)));
            }
        }
    }
    none(&complaints);
}
