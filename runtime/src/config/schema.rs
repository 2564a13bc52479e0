//! A reading view of the JSON schema that `schemars` makes of the configuration structs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value as Json;

use super::tree::{Node, Origin, Path, Step, Value};

/// `format` of a [`super::Secret`].
pub(super) const SECRET_FORMAT: &str = "secret";

/// An owned schema.
pub(super) struct Root(Json);

impl Root {
    pub(super) fn of<T: JsonSchema>() -> Self {
        let generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
        Self(generator.into_root_schema_for::<T>().to_value())
    }

    pub(super) fn view(&self) -> View<'_> {
        View { root: &self.0, outer: &self.0, inner: &self.0, nullable: false }.resolved()
    }
}

/// One place of the schema.
#[derive(Clone, Copy)]
pub(super) struct View<'s> {
    root: &'s Json,
    /// As written at the property: holds description and default.
    outer: &'s Json,
    /// With references followed and "or null" taken off: holds the type.
    inner: &'s Json,
    nullable: bool,
}

/// How a file holds a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InFile {
    /// The value is the file's content.
    Whole,
    /// Each line that is not empty is an entry.
    Lines,
}

/// What a value may be.
pub(super) enum Shape<'s> {
    /// A table with these keys; the second list holds the keys that must be there.
    Table(BTreeMap<&'s str, View<'s>>, Vec<&'s str>),
    /// A table with any keys.
    Map(View<'s>),
    Array(View<'s>),
    Text,
    Secret,
    /// One of these texts.
    Choice(Vec<&'s str>),
    Integer,
    Number,
    Boolean,
    /// Something that only its own type can check.
    Any,
}

impl<'s> View<'s> {
    fn resolved(self) -> Self {
        let mut view = self;
        loop {
            if let Some(reference) = view.inner.get("$ref").and_then(Json::as_str) {
                let Some(target) = view.root.pointer(reference.trim_start_matches('#')) else { return view };
                view.inner = target;
                continue;
            }
            let Some(options) = view.inner.get("anyOf").and_then(Json::as_array) else { return view };
            let is_null = |option: &&Json| option.get("type").and_then(Json::as_str) == Some("null");
            let rest: Vec<&Json> = options.iter().filter(|option| !is_null(option)).collect();
            match rest.as_slice() {
                [single] if rest.len() < options.len() => {
                    view.nullable = true;
                    view.inner = single;
                }
                _ => return view,
            }
        }
    }

    fn at(self, schema: &'s Json) -> Self {
        View { root: self.root, outer: schema, inner: schema, nullable: false }.resolved()
    }

    fn types(self) -> Vec<&'s str> {
        match self.inner.get("type") {
            Some(Json::String(single)) => vec![single.as_str()],
            Some(Json::Array(several)) => several.iter().filter_map(Json::as_str).collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn shape(self) -> Shape<'s> {
        if let Some(choices) = self.choices() {
            return Shape::Choice(choices);
        }
        let types: Vec<&str> = self.types().into_iter().filter(|name| *name != "null").collect();
        match types.as_slice() {
            ["object"] => self.object_shape(),
            ["array"] => match self.inner.get("items") {
                Some(items) => Shape::Array(self.at(items)),
                None => Shape::Any,
            },
            ["string"] if self.inner.get("format").and_then(Json::as_str) == Some(SECRET_FORMAT) => Shape::Secret,
            ["string"] => Shape::Text,
            ["integer"] => Shape::Integer,
            ["number"] => Shape::Number,
            ["boolean"] => Shape::Boolean,
            _ => Shape::Any,
        }
    }

    /// How a file holds the value, where one may: what is secret, and URLs, in which providers put keys.
    pub(super) fn in_file(self) -> Option<InFile> {
        match self.shape() {
            Shape::Secret => Some(InFile::Whole),
            Shape::Array(items) if items.inner.get("format").and_then(Json::as_str) == Some("uri") => {
                Some(InFile::Lines)
            }
            _ => None,
        }
    }

    fn object_shape(self) -> Shape<'s> {
        if let Some(values @ Json::Object(_)) = self.inner.get("additionalProperties") {
            return Shape::Map(self.at(values));
        }
        let properties = self.inner.get("properties").and_then(Json::as_object);
        let fields = properties.into_iter().flatten().map(|(key, schema)| (key.as_str(), self.at(schema))).collect();
        let required = self.inner.get("required").and_then(Json::as_array).into_iter().flatten();
        Shape::Table(fields, required.filter_map(Json::as_str).collect())
    }

    fn choices(self) -> Option<Vec<&'s str>> {
        if let Some(plain) = self.inner.get("enum").and_then(Json::as_array) {
            return plain.iter().filter(|one| !one.is_null()).map(Json::as_str).collect();
        }
        let documented = self.inner.get("oneOf").and_then(Json::as_array)?;
        let mut choices = Vec::new();
        for one in documented {
            if let Some(single) = one.get("const").and_then(Json::as_str) {
                choices.push(single);
            } else {
                choices.extend(one.get("enum").and_then(Json::as_array)?.iter().filter_map(Json::as_str));
            }
        }
        Some(choices)
    }

    /// The schema of the value at a path, if there can be one.
    pub(super) fn descend(self, path: &Path) -> Option<Self> {
        path.0.iter().try_fold(self, |view, step| match (view.shape(), step) {
            (Shape::Table(fields, _), Step::Key(key)) => fields.get(key.as_str()).copied(),
            (Shape::Map(values), Step::Key(_)) => Some(values),
            (Shape::Array(items), Step::Index(_)) => Some(items),
            _ => None,
        })
    }

    pub(super) fn description(self) -> &'s str {
        let own = self.outer.get("description").or_else(|| self.inner.get("description"));
        own.and_then(Json::as_str).unwrap_or_default()
    }

    /// The description of the type, where the property has one of its own.
    pub(super) fn type_description(self) -> &'s str {
        self.inner.get("description").and_then(Json::as_str).unwrap_or_default()
    }

    pub(super) fn default(self) -> Option<&'s Json> {
        self.outer.get("default").filter(|value| !value.is_null())
    }

    /// The default of this field `key` of a table whose own default is `given`: a table says what its parts begin with, and
    /// that may be something else than the part's type says.
    pub(super) fn default_within(self, key: &str, given: Option<&'s Json>) -> Option<&'s Json> {
        match given.and_then(|table| table.get(key)) {
            Some(value) => Some(value).filter(|value| !value.is_null()),
            None => self.default(),
        }
    }

    pub(super) fn is_nullable(self) -> bool {
        self.nullable || self.types().contains(&"null")
    }

    pub(super) fn number(self, keyword: &str) -> Option<f64> {
        self.outer.get(keyword).or_else(|| self.inner.get(keyword)).and_then(Json::as_f64)
    }

    /// A value that the type takes, for going on after a refused one; `None` where the value can be left out.
    pub(super) fn stand_in(self) -> Option<Node> {
        if self.is_nullable() {
            return None;
        }
        let example = self.inner.get("examples").and_then(Json::as_array).and_then(|list| list.first());
        if let Some(node) = self.default().or(example).and_then(|json| Node::from_json(json, &Origin::StandIn)) {
            return Some(node);
        }
        let value = match self.shape() {
            Shape::Table(fields, required) => {
                let filled = required.iter().filter_map(|key| Some(((*key).to_owned(), fields.get(key)?.stand_in()?)));
                Value::Table(filled.collect())
            }
            Shape::Map(_) => Value::Table(BTreeMap::new()),
            Shape::Array(items) => {
                let least = self.number("minItems").unwrap_or_default() as usize;
                Value::Array((0..least).filter_map(|_| items.stand_in()).collect())
            }
            // Types that read themselves: what they refuse would hide every mistake behind it.
            Shape::Text if self.inner.get("format").and_then(Json::as_str) == Some("address") => {
                Value::Text(format!("0x{:040x}", 1))
            }
            Shape::Text | Shape::Secret | Shape::Any => Value::Text(String::new()),
            Shape::Choice(choices) => Value::Text((*choices.first()?).to_owned()),
            Shape::Integer => Value::Integer(self.number("minimum").unwrap_or_default() as i128),
            Shape::Number => Value::Float(self.number("minimum").unwrap_or_default()),
            Shape::Boolean => Value::Boolean(false),
        };
        Some(Node { origin: Origin::StandIn, value })
    }

    /// What the reference calls the type.
    pub(super) fn type_name(self) -> String {
        match self.shape() {
            Shape::Table(..) => "table".to_owned(),
            Shape::Map(values) => format!("table of {}", values.type_name()),
            Shape::Array(items) => format!("list of {}", items.type_name()),
            Shape::Text | Shape::Any => match self.inner.get("format").and_then(Json::as_str) {
                Some("uri") => "URL".to_owned(),
                Some(format) => format.to_owned(),
                None => "text".to_owned(),
            },
            Shape::Secret => "secret".to_owned(),
            Shape::Choice(choices) => choices.iter().map(|one| format!("`{one}`")).collect::<Vec<_>>().join(", "),
            Shape::Integer => "integer".to_owned(),
            Shape::Number => "number".to_owned(),
            Shape::Boolean => "boolean".to_owned(),
        }
    }
}
