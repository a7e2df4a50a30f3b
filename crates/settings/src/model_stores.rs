//! Checks which directories can be stores of models. It follows links and changes nothing.

use std::path::{Component, Path, PathBuf};

use super::layout::Layout;

/// Returns an absolute path of the machine as a path below the root.
pub fn below(layout: &Layout, path: &Path) -> PathBuf {
    if layout.is_real() || !path.is_absolute() || path.starts_with(layout.root()) {
        return path.to_path_buf();
    }
    layout.root().join(path.strip_prefix("/").unwrap_or(path))
}

/// Returns why a directory cannot be a location of models: it contains much more.
pub fn refusal(layout: &Layout, path: &Path) -> Option<String> {
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Some("it is no absolute path without '..'".to_owned());
    }
    let real = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let neighbours =
        [layout.home(), layout.app(), layout.etc(), layout.persistent(), layout.state(), layout.store()];
    let is_wide = neighbours.iter().any(|other| {
        let other = other.canonicalize().unwrap_or_else(|_| other.clone());
        other.starts_with(&real)
    });
    let is_of_kernel = ["/proc", "/sys", "/dev"].iter().any(|other| real.starts_with(other));
    (is_wide || is_of_kernel).then(|| "it holds much more than models".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_moves_below_the_root_once() {
        let layout = Layout::below("/trial");
        assert_eq!(below(&layout, Path::new("/mine")), Path::new("/trial/mine"));
        assert_eq!(below(&layout, Path::new("/trial/mine")), Path::new("/trial/mine"));
        assert_eq!(below(&Layout::below("/"), Path::new("/srv")), Path::new("/srv"));
    }

    #[test]
    fn a_directory_that_holds_the_installation_is_no_location() {
        let layout = Layout::below("/trial");
        for bad in
            ["/trial", "/", "/trial/opt/ladylinux", "/trial/etc", "/proc/1", "relative", "/trial/m/../etc"]
        {
            assert!(refusal(&layout, Path::new(bad)).is_some(), "{bad}");
        }
        for good in ["/trial/opt/ladylinux/models", "/srv/models"] {
            assert_eq!(refusal(&layout, Path::new(good)), None);
        }
    }
}
