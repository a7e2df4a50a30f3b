//! All faults of a file of settings: those of its form, and values that the program cannot use.

use std::collections::BTreeMap;

use crate::faults;
use crate::faults::{Fault, Reading};
use crate::file::{ApplicationFile, Author, HostFile};
use crate::layout::Layout;
use crate::{Hook, Origin, model_stores};
use refresh_system::error::{Failure, Outcome};

use super::{
    Layers, Overrides, check_also, check_headers, check_hook, check_json, check_model_store, check_pattern,
    check_probe_path, check_store,
};

/// Line and column of each value by its key.
pub(super) type Places = BTreeMap<String, (usize, usize)>;

impl Layers {
    /// Returns every fault of a text as the host's file, in their order.
    pub fn faults_of_host(layout: &Layout, text: &str) -> Vec<Fault> {
        let read: Reading<HostFile> = faults::read(text, Author::Host);
        let (mut faults, places) = (read.faults, read.places);
        let layers = Self {
            layout: layout.clone(),
            host: read.value,
            application: ApplicationFile::default(),
            overrides: Overrides::default(),
        };
        add(&mut faults, &places, layers.unusable_of_host(&read.hooks));
        faults
    }

    /// Returns every fault of a text as the application's file, in their order.
    pub fn faults_of_application(text: &str) -> Vec<Fault> {
        let read: Reading<ApplicationFile> = faults::read(text, Author::Application);
        let (mut faults, file) = (read.faults, read.value);
        let mut found = InvalidValues::default();
        for pattern in file.definitions.iter().flatten() {
            found.check("definitions", check_pattern("definitions", pattern));
        }
        found.check("probe.path", file.probe.path.as_deref().map_or(Ok(()), check_probe_path));
        found.hooks(&file.hook, &read.hooks, Origin::Application);
        add(&mut faults, &read.places, found.0);
        faults
    }

    /// Returns where each value of the host's file is.
    pub fn places_of_host(text: &str) -> BTreeMap<String, (usize, usize)> {
        faults::read::<HostFile>(text, Author::Host).places
    }

    /// Returns each value of the host's file that cannot be used, with its key; `numbers` are those of its hooks in the
    /// file.
    fn unusable_of_host(&self, numbers: &[usize]) -> Vec<(String, Failure)> {
        let (layout, host, mut found) = (&self.layout, &self.host, InvalidValues::default());
        found.check("store", host.store.as_ref().map_or(Ok(()), |store| check_store(layout, store)));
        for pattern in &host.preserve {
            found.check("preserve", check_pattern("preserve", pattern));
        }
        found.check("remote.url", host.remote.checked_url().map(drop));
        for pattern in host.python.definitions.iter().flatten() {
            found.check("python.definitions", check_pattern("definitions", pattern));
        }
        found.check("python.indexes", self.indexes().map(drop));
        found.check("service.also", check_also(&host.service));
        found.check("probe.path", check_probe_path(host.probe.path()));
        found.check("probe.headers", check_headers(&host.probe.headers));
        let half = if host.probe.json_field.is_some() { "probe.json_field" } else { "probe.json_value" };
        found.check(half, check_json(&host.probe));
        for path in &host.models.stores {
            found.check("models.stores", check_model_store(layout, &model_stores::below(layout, path)));
        }
        found.hooks(&host.hook, numbers, Origin::Host);
        found.0
    }
}

/// Values that cannot be used, with their keys.
#[derive(Default)]
struct InvalidValues(Vec<(String, Failure)>);

impl InvalidValues {
    fn check(&mut self, key: &str, checked: Outcome<()>) {
        self.0.extend(checked.err().map(|failure| (key.to_owned(), failure)));
    }

    fn hooks(&mut self, hooks: &[Hook], numbers: &[usize], origin: Origin) {
        for (hook, at) in hooks.iter().zip(numbers) {
            self.check(&format!("hook[{at}]"), check_hook(hook, origin));
        }
    }
}

/// Adds values that cannot be used to the faults of the form, at their places.
fn add(faults: &mut Vec<Fault>, places: &Places, unusable: Vec<(String, Failure)>) {
    faults.extend(unusable.into_iter().map(|(key, failure)| {
        let (line, column) = places.get(&key).copied().unwrap_or((1, 1));
        let hints = failure.hints().into_iter().map(|hint| format!(" ({hint})")).collect::<String>();
        let message = failure.chain().join(": ") + &hints;
        Fault { line, column, key: Some(key), message, expected: Vec::new(), nearest: None }
    }));
    faults.sort_by_key(|fault| (fault.line, fault.column));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_that_cannot_be_used_is_found_at_its_place() {
        let text = "store = \"/opt\"\npreserve = [\"../x\", \"a[\"]\n[remote]\nurl = \"http://h/x\"\n\
                    [python]\nindexes = { a = \"b\" }\n[service]\nalso = [\"a.service\", \"a.service\"]\n\
                    [probe]\npath = \"x\"\njson_field = \"a\"\n[models]\nstores = [\"x\"]\n\
                    [[hook]]\nname = \"m\"\nkind = \"migration\"\ncommand = []\n";
        let faults = Layers::faults_of_host(&Layout::below("/trial"), text);
        let lines: Vec<usize> = faults.iter().map(|fault| fault.line).collect();
        assert_eq!(lines, [1, 2, 2, 4, 6, 8, 10, 11, 13, 14], "{faults:#?}");
        assert!(faults.iter().all(|fault| fault.key.is_some() && fault.column >= 1));
    }

    #[test]
    fn a_hook_keeps_its_number_behind_one_with_a_fault() {
        let text = "[[hook]]\nname = \"a\"\nkind = \"cheque\"\ncommand = [\"true\"]\n\
                    [[hook]]\nname = \"b\"\nkind = \"check\"\ncommand = []\n";
        let faults = Layers::faults_of_host(&Layout::below("/trial"), text);
        let found: Vec<_> = faults.iter().map(|it| (it.line, it.key.as_deref().unwrap())).collect();
        assert_eq!(found, [(3, "hook[0].kind"), (5, "hook[1]")]);
    }

    #[test]
    fn a_file_of_the_application_is_checked_as_such() {
        let faults =
            Layers::faults_of_application("keep = 3\ndefinitions = [\"/x\"]\n[probe]\npath = \"x\"\n");
        let found: Vec<_> = faults.iter().map(|it| (it.line, it.message.as_str())).collect();
        assert!(found[0].1.contains("the application may not set `keep`"), "{found:?}");
        assert_eq!(found.iter().map(|it| it.0).collect::<Vec<_>>(), [1, 2, 4]);
    }
}
