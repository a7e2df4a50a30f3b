//! Every fault of a file of settings, with its place: text that is not TOML, keys that its author may not set, and
//! values of the wrong kind.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::file::Author;
use super::keys::keys_of;

/// A fault of a file of settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The key with its table (`probe.settle`); `None` if the file is not TOML there.
    pub key: Option<String>,
    /// The fault in a sentence.
    pub message: String,
    /// The accepted values, kinds of values, or keys.
    pub expected: Vec<String>,
    /// The known key that is most like an unknown one.
    pub nearest: Option<String>,
}

/// The result of reading a file: its usable part, its faults in their order, and the place of each key.
#[derive(Debug)]
pub(super) struct Reading<T> {
    pub(super) value: T,
    pub(super) faults: Vec<Fault>,
    /// Line and column of each value by its key (`probe.settle`, `hook[0].name`).
    pub(super) places: BTreeMap<String, (usize, usize)>,
    /// The number of each hook of `value` in the file, from 0. A hook with a fault is left out.
    pub(super) hooks: Vec<usize>,
}

/// Reads a file, and leaves out the faulty parts.
pub(super) fn read<'a, T: Deserialize<'a> + Default>(text: &'a str, author: Author) -> Reading<T> {
    let mut reader = Reader { text, author, faults: Vec::new(), places: BTreeMap::new(), hooks: Vec::new() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        reader.add_error(None, 0, error);
    }
    // Text after a fault of the syntax may belong to another table.
    let value = if errors.is_empty() { reader.table::<T>(table.into_inner()) } else { T::default() };
    let Reader { mut faults, places, hooks, .. } = reader;
    faults.sort_by_key(|fault| (fault.line, fault.column));
    Reading { value, faults, places, hooks }
}

type Key<'a> = Spanned<std::borrow::Cow<'a, str>>;
type Entry<'a> = Spanned<DeValue<'a>>;

/// A hook with every required key, into which the keys of another one are put one by one.
const HOOK: &str = "name = \"x\"\nkind = \"check\"\ncommand = [\"true\"]\n";

struct Reader<'a> {
    text: &'a str,
    author: Author,
    faults: Vec<Fault>,
    places: BTreeMap<String, (usize, usize)>,
    hooks: Vec<usize>,
}

impl<'a> Reader<'a> {
    /// Reads the file without the entries that have a fault.
    fn table<T: Deserialize<'a> + Default>(&mut self, table: DeTable<'a>) -> T {
        let mut good = DeTable::new();
        for (key, value) in table {
            let name = key.get_ref().to_string();
            if !self.is_known("", &name, &key) {
                continue;
            }
            let span = value.span();
            self.place(&name, span.start);
            let has_keys = name != "hook" && !keys_of(&name, self.author).is_empty();
            let value = match value.into_inner() {
                DeValue::Table(inner) if has_keys => self.inner::<T>(&key, inner),
                DeValue::Array(items) if name == "hook" => {
                    let items = items.into_iter().enumerate();
                    let kept = items.filter_map(|(at, item)| self.hook::<T>(&key, at, item));
                    DeValue::Array(kept.collect())
                }
                other
                    if self
                        .is_right::<T>(&name, [(key.clone(), Spanned::new(span.clone(), other.clone()))]) =>
                {
                    other
                }
                _ => continue,
            };
            good.insert(key, Spanned::new(span, value));
        }
        T::deserialize(Deserializer::from(Spanned::new(0..self.text.len(), good))).unwrap_or_default()
    }

    /// Reads one of the tables.
    fn inner<T: Deserialize<'a>>(&mut self, key: &Key<'a>, table: DeTable<'a>) -> DeValue<'a> {
        let table_name = key.get_ref().to_string();
        let mut good = DeTable::new();
        for (inner, value) in table {
            let name = format!("{table_name}.{}", inner.get_ref());
            self.place(&name, value.span().start);
            let alone = DeTable::from_iter([(inner.clone(), value.clone())]);
            let alone = Spanned::new(value.span(), DeValue::Table(alone));
            if self.is_known(&table_name, &name, &inner) && self.is_right::<T>(&name, [(key.clone(), alone)])
            {
                good.insert(inner, value);
            }
        }
        DeValue::Table(good)
    }

    /// Reads one hook; returns `None` if it has a fault.
    fn hook<T: Deserialize<'a>>(&mut self, key: &Key<'a>, at: usize, item: Entry<'a>) -> Option<Entry<'a>> {
        let before = self.faults.len();
        let list = |item: Entry<'a>| {
            let items = std::iter::once(item.clone()).collect();
            (key.clone(), Spanned::new(item.span(), DeValue::Array(items)))
        };
        self.place(&format!("hook[{at}]"), item.span().start);
        let Some(table) = item.get_ref().as_table() else {
            return self.is_right::<T>("hook", [list(item.clone())]).then_some(item);
        };
        let model = DeTable::parse(HOOK).map(Spanned::into_inner).unwrap_or_default();
        for (inner, value) in table {
            let name = format!("hook[{at}].{}", inner.get_ref());
            self.place(&name, value.span().start);
            let mut alone = model.clone();
            alone.insert(inner.clone(), value.clone());
            let alone = Spanned::new(value.span(), DeValue::Table(alone));
            let _ = self.is_known("hook", &name, inner) && self.is_right::<T>(&name, [list(alone)]);
        }
        for required in model.keys().map(|required| required.get_ref().as_ref()) {
            if table.keys().all(|key| key.get_ref() != required) {
                let message = format!("a hook needs `{required}`");
                self.add(
                    Some(format!("hook[{at}].{required}")),
                    item.span().start,
                    message,
                    &[required],
                    None,
                );
            }
        }
        let is_right = self.faults.len() == before;
        self.hooks.extend(is_right.then_some(at));
        is_right.then_some(item)
    }

    /// Checks that the author of the file may set a key, which is `full` with its table.
    fn is_known(&mut self, table: &str, full: &str, key: &Key<'a>) -> bool {
        let (name, start) = (key.get_ref().as_ref(), key.span().start);
        let Err(why) = check_key(table, name, self.author) else { return true };
        let known = keys_of(table, self.author);
        self.add(Some(full.to_owned()), start, why, known, nearest(name, known));
        false
    }

    /// Checks that a file of these entries alone can be read.
    fn is_right<T: Deserialize<'a>>(&mut self, name: &str, entries: [(Key<'a>, Entry<'a>); 1]) -> bool {
        let start = entries[0].1.span().start;
        let table = Spanned::new(entries[0].1.span(), DeTable::from_iter(entries));
        match T::deserialize(Deserializer::from(table)) {
            Ok(_) => true,
            Err(error) => {
                self.add_error(Some(name.to_owned()), start, &error);
                false
            }
        }
    }

    fn add_error(&mut self, key: Option<String>, start: usize, error: &toml::de::Error) {
        let (message, expected) = in_words(error.message());
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        self.add(key, error.span().map_or(start, |span| span.start), message, &expected, None);
    }

    fn add(
        &mut self,
        key: Option<String>,
        start: usize,
        message: String,
        expected: &[&str],
        nearest: Option<&str>,
    ) {
        let (line, column) = position(self.text, start);
        let expected = expected.iter().map(|&word| word.to_owned()).collect();
        let nearest = nearest.map(str::to_owned);
        self.faults.push(Fault { line, column, key, message, expected, nearest });
    }

    fn place(&mut self, key: &str, start: usize) {
        self.places.insert(key.to_owned(), position(self.text, start));
    }
}

/// Returns line and column of a byte of a text, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let column = before.rsplit('\n').next().map_or(0, |start| start.chars().count()) + 1;
    (before.matches('\n').count() + 1, column)
}

/// Returns a fault that the parser found in a value, without the parser's words for types, and the accepted values.
fn in_words(message: &str) -> (String, Vec<String>) {
    let of_a_type = message.strip_prefix("invalid type: ").or(message.strip_prefix("invalid value: "));
    if let Some((found, wanted)) = of_a_type.and_then(|rest| rest.split_once(", expected ")) {
        let wanted = match wanted {
            "usize" | "u16" | "u32" | "u64" => "an integer",
            "a sequence" => "a list in brackets",
            "a string" | "path string" => "a text in quotes",
            "a boolean" => "true or false",
            "a map" => "a table",
            other if other.starts_with("struct ") => "a table",
            other => other,
        };
        let found = match found.strip_prefix("string ") {
            Some(text) => text,
            None if found == "sequence" => "a list",
            None if found == "map" => "a table",
            None => found.split_once(' ').map_or(found, |(_, value)| value.trim_matches('`')),
        };
        return (format!("{found} in the place of {wanted}"), vec![wanted.to_owned()]);
    }
    if let Some((found, known)) =
        message.strip_prefix("unknown variant `").and_then(|rest| rest.split_once("`, expected "))
    {
        let known = known.trim_start_matches("one of ").replace('`', "").replace(" or ", ", ");
        let expected = known.split(", ").map(str::to_owned).collect();
        return (format!("{found:?} is none of {known}"), expected);
    }
    (message.to_owned(), Vec::new())
}

/// Returns a key with its table.
fn full(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// Checks a key; the error names the fault and the nearest known key.
fn check_key(table: &str, key: &str, author: Author) -> Result<(), String> {
    let (known, full) = (keys_of(table, author), full(table, key));
    if known.contains(&key) {
        return Ok(());
    }
    if author == Author::Application && keys_of(table, Author::Host).contains(&key) {
        return Err(format!(
            "the application may not set `{full}`: it may set hooks, definitions (with extras and groups) and the probe's path"
        ));
    }
    if full == "python.installer" {
        return Err("`python.installer` is gone: uv makes every environment now; remove this line".to_owned());
    }
    match nearest(key, known) {
        Some(near) => Err(format!("unknown key `{full}`; did you mean `{near}`?")),
        None => Err(format!("unknown key `{full}`; known here: {}", known.join(", "))),
    }
}

/// Returns the candidate most like `word`, if one is similar.
fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::super::file::HostFile;
    use super::*;

    #[test]
    fn every_fault_of_a_file_is_found_and_the_rest_is_read() {
        let text = "keep = 5\nbranch = 3\n[probe]\nsetle = \"3s\"\ndeadline = \"3\"\n\
                    [remote]\nallow = [\"git\", \"ftp\"]\n[nonsense]\n\
                    [[hook]]\nkind = \"cheque\"\ncommand = []\n[[hook]]\nname = \"x\"\nkind = \"check\"\ncommand = [\"true\"]\n";
        let read: Reading<HostFile> = read(text, Author::Host);
        let found: Vec<_> =
            read.faults.iter().map(|it| (it.line, it.column, it.key.as_deref().unwrap_or(""))).collect();
        let expected = [
            (2, 10, "branch"),
            (4, 1, "probe.setle"),
            (5, 12, "probe.deadline"),
            (7, 17, "remote.allow"),
            (8, 2, "nonsense"),
            (9, 1, "hook[0].name"),
            (10, 8, "hook[0].kind"),
        ];
        assert_eq!(found, expected, "{:#?}", read.faults);
        assert_eq!(read.faults[1].nearest.as_deref(), Some("settle"));
        assert_eq!(read.faults[3].expected, ["https", "http", "ssh", "git", "file"]);
        assert_eq!((read.value.keep, read.value.hook.len(), read.hooks), (Some(5), 1, vec![1]));
        assert_eq!(read.places["hook[1].kind"], (14, 8));
    }

    #[test]
    fn a_file_that_is_not_toml_has_a_fault_without_a_key() {
        let read: Reading<HostFile> = read("keep = 5\nbranch = \n", Author::Host);
        assert_eq!((read.faults[0].line, read.faults[0].key.as_deref()), (2, None));
    }
}
