use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;

/// A number that reads itself from a text, as addresses do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String")]
struct Even(u32);

impl TryFrom<String> for Even {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.parse() {
            Ok(number) if number % 2 == 0 => Ok(Self(number)),
            _ => Err(format!("`{text}` is not an even number")),
        }
    }
}

/// The example service.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Example {
    /// The broker.
    #[serde(default)]
    broker: Broker,
    /// Things to follow.
    #[schemars(length(min = 1))]
    thing: Vec<Thing>,
}

/// How to reach the broker.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Broker {
    /// Where it is.
    address: String,
    /// Its mood.
    mood: Mood,
    /// Password.
    password: Option<Secret>,
    /// Size of its queue | with a bar.
    #[schemars(range(min = 1, max = 100))]
    queue: u32,
    /// Names.
    names: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Mood {
    /// Does what it is told.
    Calm,
    /// Does not.
    Angry,
}

/// One thing.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
struct Thing {
    /// Its name.
    id: String,
    /// An even number.
    #[schemars(with = "String", extend("examples" = ["2"]))]
    even: Even,
    /// A second one.
    #[schemars(with = "String", extend("examples" = ["2"]))]
    other: Even,
    /// Its key.
    key: Secret,
}

impl Default for Broker {
    fn default() -> Self {
        Self { address: "127.0.0.1:1".to_owned(), mood: Mood::Calm, password: None, queue: 10, names: Vec::new() }
    }
}

impl Configuration for Broker {
    fn validate(&self, problems: &mut Problems) {
        if self.mood == Mood::Angry && self.password.is_none() {
            problems.at("mood", "an angry broker wants a password");
        }
    }
}

impl Configuration for Example {
    fn validate(&self, problems: &mut Problems) {
        problems.within("broker", &self.broker);
    }
}

const VALID: &str = r#"
[broker]
queue = 7

[[thing]]
id = "one"
even = "2"
other = "4"
key = "hush"
"#;

struct Given {
    _folder: tempfile::TempDir,
    sources: Sources,
}

fn given(file: &str, environment: &[(&str, &str)], set: &[&str]) -> Given {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("example.toml");
    std::fs::write(&path, file).expect("file");
    std::fs::write(folder.path().join("key.txt"), "  from-a-file\n").expect("file");
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let set = set.iter().map(|one| (*one).to_owned()).collect();
    Given { _folder: folder, sources: Sources { file: Some(path), environment, set } }
}

fn loaded(file: &str, environment: &[(&str, &str)], set: &[&str]) -> Loaded<Example> {
    load(&given(file, environment, set).sources).unwrap_or_else(|errors| panic!("{errors}"))
}

fn refused(file: &str, environment: &[(&str, &str)], set: &[&str]) -> Vec<Problem> {
    let errors = load::<Example>(&given(file, environment, set).sources).expect_err("refused");
    errors.problems().to_vec()
}

#[test]
fn a_later_layer_replaces_single_values_of_an_earlier_one() {
    let environment =
        [("KMS_CONNECTOR_BROKER__ADDRESS", "env:1"), ("KMS_CONNECTOR_BROKER__QUEUE", "8"), ("PATH", "/bin")];
    let loaded = loaded(VALID, &environment, &["broker.queue=9", "thing.0.id=renamed"]);
    assert_eq!(loaded.config.broker.address, "env:1");
    assert_eq!(loaded.config.broker.queue, 9);
    assert_eq!(loaded.config.broker.mood, Mood::Calm);
    assert_eq!(loaded.config.thing[0].id, "renamed");
    assert_eq!(loaded.config.thing[0].even, Even(2));
}

#[test]
fn every_value_knows_its_origin() {
    let loaded = loaded(VALID, &[("KMS_CONNECTOR_BROKER__ADDRESS", "env:1")], &["broker.mood=calm"]);
    assert_eq!(loaded.origin("broker.mood"), Origin::Flag("broker.mood".to_owned()));
    assert_eq!(loaded.origin("broker.address"), Origin::Environment("KMS_CONNECTOR_BROKER__ADDRESS".to_owned()));
    assert_eq!(loaded.origin("broker.names"), Origin::Default);
    let Origin::File { path, line } = loaded.origin("thing.0.even") else { panic!("not from the file") };
    assert!(path.ends_with("example.toml"));
    assert_eq!(line, 7);
}

#[test]
fn all_mistakes_are_found_at_once_each_with_its_origin() {
    let file = r#"
[broker]
adress = "typo"
mood = "furious"
queue = 1000
names = "none"

[[thing]]
id = 5
even = "3"
other = "5"
"#;
    let environment = [("KMS_CONNECTOR_BROKR__QUEUE", "1")];
    let problems = refused(file, &environment, &["broker.queue=many", "nonsense"]);
    let found: Vec<(&str, &str)> = problems.iter().map(|problem| (problem.code.name, problem.path.as_str())).collect();
    let expected = [
        ("config_unknown_key", "broker.adress"),
        ("config_unknown_key", "brokr"),
        ("config_value", "broker.mood"),
        ("config_value", "broker.queue"),
        ("config_value", "broker.names"),
        ("config_value", "thing[0].id"),
        ("config_value", "thing[0].even"),
        ("config_value", "thing[0].other"),
        ("config_missing", "thing[0].key"),
        ("config_syntax", ""),
    ];
    for one in expected {
        assert!(found.contains(&one), "{one:?} is not among {problems:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{problems:#?}");
    let text = |path: &str| problems.iter().find(|problem| problem.path == path).expect("found").to_string();
    assert!(text("broker.adress").contains("example.toml:3"), "{}", text("broker.adress"));
    assert!(text("broker.adress").contains("did you mean `address`?"));
    assert!(text("broker.mood").contains("`furious` is not one of `calm`, `angry`"));
    assert!(text("broker.queue").contains("--set broker.queue"));
    assert!(text("brokr").contains("KMS_CONNECTOR_BROKR__QUEUE"));
    assert!(text("thing[0].key").contains("KMS_CONNECTOR_THING__0__KEY"));
}

#[test]
fn a_rule_between_values_is_reported_beside_mistakes_elsewhere_and_not_when_its_own_values_are_wrong() {
    let problems = refused(&format!("{VALID}\nextra = 1\n"), &[], &["broker.mood=angry"]);
    let names: Vec<&str> = problems.iter().map(|problem| problem.code.name).collect();
    assert_eq!(names, ["config_unknown_key", "config_rule"], "{problems:#?}");
    assert!(problems[1].origin.contains("--set broker.mood"), "{problems:#?}");
    let problems = refused(VALID, &[], &["broker.mood=grumpy"]);
    assert_eq!(problems.len(), 1, "{problems:#?}");
}

#[test]
fn a_file_that_is_not_toml_names_the_line_and_an_absent_one_the_path() {
    let problems = refused("[broker]\nqueue = = 3\n", &[], &[]);
    assert!(
        problems.iter().any(|one| one.code.name == "config_syntax" && one.origin.ends_with("example.toml:2")),
        "{problems:#?}"
    );
    let sources = Sources { file: Some(PathBuf::from("no-such-file.toml")), ..Sources::default() };
    let errors = load::<Example>(&sources).expect_err("refused");
    assert_eq!(errors.problems()[0].code.name, "config_file");
}

#[test]
fn a_file_that_cannot_be_read_is_the_only_mistake_that_is_told() {
    let sources = Sources { file: Some(PathBuf::from("no-such-file.toml")), ..Sources::default() };
    let errors = load::<Example>(&sources).expect_err("refused");
    assert_eq!(errors.problems().len(), 1, "{errors}");
}

#[test]
fn several_values_of_one_table_that_read_themselves_are_refused_together() {
    /// No stand-in is known for it but by trying.
    #[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
    struct Places {
        /// One.
        a: crate::config::Endpoint,
        /// Two.
        b: crate::config::Endpoint,
        /// Three.
        #[schemars(with = "String")]
        c: Even,
        /// Four.
        #[schemars(with = "String")]
        d: Even,
    }
    impl Configuration for Places {
        fn validate(&self, _: &mut Problems) {}
    }
    let given = given("a = \"no url\"\nb = \"none either\"\nc = \"odd\"\nd = \"3\"\n", &[], &[]);
    let errors = load::<Places>(&given.sources).expect_err("refused");
    let paths: Vec<&str> = errors.problems().iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["a", "b", "c", "d"], "{errors}");
}

#[test]
fn lists_can_be_given_as_words_or_toml_and_tables_by_index() {
    let loaded = loaded(
        "",
        &[
            ("KMS_CONNECTOR_THING__0__ID", "zero"),
            ("KMS_CONNECTOR_THING__0__EVEN", "2"),
            ("KMS_CONNECTOR_THING__0__OTHER", "2"),
            ("KMS_CONNECTOR_THING__0__KEY", "k"),
            ("KMS_CONNECTOR_BROKER__NAMES", "a, b"),
        ],
        &["thing.1={ id = \"one\", even = \"4\", other = \"4\", key = \"k\" }"],
    );
    assert_eq!(loaded.config.broker.names, ["a", "b"]);
    let ids: Vec<&str> = loaded.config.thing.iter().map(|thing| thing.id.as_str()).collect();
    assert_eq!(ids, ["zero", "one"]);
}

#[test]
fn a_secret_comes_from_a_file_beside_the_configuration_and_is_trimmed() {
    let file = VALID.replace("key = \"hush\"", "key_file = \"key.txt\"");
    assert_eq!(loaded(&file, &[], &[]).config.thing[0].key.expose(), "from-a-file");
}

#[test]
fn a_secret_that_is_given_twice_or_whose_file_is_missing_is_one_mistake() {
    for line in ["key = \"hush\"\nkey_file = \"key.txt\"", "key_file = \"absent.txt\""] {
        let problems = refused(&VALID.replace("key = \"hush\"", line), &[], &[]);
        let names: Vec<&str> = problems.iter().map(|problem| problem.code.name).collect();
        assert_eq!(names, ["config_secret_file"], "{problems:#?}");
    }
}

#[test]
fn no_secret_is_printed_by_debug_by_the_effective_configuration_or_in_a_mistake() {
    let loaded = loaded(VALID, &[("KMS_CONNECTOR_BROKER__PASSWORD", "swordfish")], &[]);
    let printed = format!("{loaded:?}{}", loaded.to_toml());
    assert!(!printed.contains("swordfish") && !printed.contains("hush"), "{printed}");
    let wrong_type = VALID.replace("key = \"hush\"", "key = 271828");
    let problems = refused(&wrong_type, &[], &[]);
    assert!(!format!("{problems:?}").contains("271828"), "{problems:?}");
}

#[test]
fn the_effective_configuration_is_toml_with_the_origin_of_every_value() {
    let loaded = loaded(VALID, &[], &["broker.names=x,y"]);
    let printed = loaded.to_toml();
    let parsed: toml::Table = toml::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"));
    assert_eq!(parsed["broker"]["queue"].as_integer(), Some(7));
    assert_eq!(parsed["thing"][0]["id"].as_str(), Some("one"));
    assert!(printed.contains("names = [\"x\", \"y\"]  # --set broker.names"), "{printed}");
    assert!(printed.contains("mood = \"calm\"  # default"), "{printed}");
}

#[test]
fn the_reference_names_every_key_with_type_default_and_meaning() {
    let reference = config_reference::<Example>();
    for line in [
        "#### `[broker]`",
        "| `address` | text | `\"127.0.0.1:1\"` | Where it is. |",
        "| `mood` | `calm`, `angry` | `\"calm\"` | Its mood. |",
        "| `password` | secret | none | Password. |",
        "| `password_file` | path | none | Path of a file that holds `password`; white space around it is removed. |",
        "| `queue` | integer | `10` | Size of its queue \\| with a bar. (1 to 100) |",
        "#### `[[thing]]`",
        "| `id` | text | required | Its name. |",
    ] {
        assert!(reference.contains(line), "{line} is missing in\n{reference}");
    }
}

#[test]
fn a_generated_block_that_is_out_of_date_is_told() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("doc.md");
    std::fs::write(&file, "before\n<!-- generated: x -->\n\nold\n\n<!-- end: x -->\nafter\n").expect("file");
    assert_eq!(check_generated_block(&file, "x", "old"), Ok(()));
    assert!(check_generated_block(&file, "y", "old").is_err());
    if std::env::var_os("UPDATE_DOCS").is_none() {
        assert!(check_generated_block(&file, "x", "new").is_err());
    }
}

#[test]
fn a_look_at_a_running_service_holds_types_but_no_rules() {
    assert_eq!(refused(VALID, &[], &["broker.mood=angry"]).len(), 1);
    let mut looked = given(VALID, &[], &["broker.mood=angry"]);
    assert_eq!(load_without_rules::<Example>(&looked.sources).unwrap().config.broker.mood, Mood::Angry);
    looked.sources.set = vec!["broker.queue=0".to_owned()];
    assert!(load_without_rules::<Example>(&looked.sources).is_err());
}

/// Two parts of one type.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Lanes {
    /// Another default than its type's.
    fast: Lane,
    /// As its type says.
    slow: Lane,
}

/// One part.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct Lane {
    /// How many.
    slots: u32,
    /// How wide.
    window: u32,
}

impl Default for Lanes {
    fn default() -> Self {
        Self { fast: Lane { slots: 4000, ..Lane::default() }, slow: Lane::default() }
    }
}

impl Default for Lane {
    fn default() -> Self {
        Self { slots: 64, window: 10 }
    }
}

/// A configuration with lanes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
struct WithLanes {
    /// Its lanes.
    lanes: Lanes,
}

impl Configuration for WithLanes {
    fn validate(&self, _: &mut Problems) {}
}

#[test]
fn what_a_section_is_begun_with_stays_when_a_part_of_it_is_set() {
    let slots = |set: &[&str]| {
        let sources = Sources { set: set.iter().map(|one| (*one).to_owned()).collect(), ..Sources::default() };
        let loaded = load::<WithLanes>(&sources).unwrap_or_else(|errors| panic!("{errors}"));
        let lanes = loaded.config.lanes.clone();
        (lanes.fast.slots, lanes.fast.window, lanes.slow.slots, loaded.origin("lanes.fast.slots"))
    };
    assert_eq!(slots(&[]), (4000, 10, 64, Origin::Default));
    assert_eq!(slots(&["lanes.fast.window=5"]), (4000, 5, 64, Origin::Default));
    assert_eq!(slots(&["lanes.slow.window=5"]), (4000, 10, 64, Origin::Default));
    let flag = Origin::Flag("lanes.fast.slots".to_owned());
    assert_eq!(slots(&["lanes.fast.slots=7"]), (7, 10, 64, flag));
}

#[test]
fn the_reference_says_the_default_that_is_in_force() {
    let reference = config_reference::<WithLanes>();
    let (fast, slow) = reference.split_once("#### `[lanes.slow]`").expect("both sections");
    assert!(fast.contains("| `slots` | integer | `4000` |"), "{reference}");
    assert!(slow.contains("| `slots` | integer | `64` |"), "{reference}");
}
