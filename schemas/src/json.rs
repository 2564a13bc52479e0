//! Generic Avro values as JSON for people.

use apache_avro::types::Value;
use serde_json::{Map, Number, Value as Json};

/// Bytes and fixed as hex with `0x`, enums by their symbol, unions as what is in them.
pub(crate) fn from_avro(value: Value) -> Json {
    match value {
        Value::Boolean(value) => Json::Bool(value),
        Value::Int(value) => Json::Number(value.into()),
        Value::Long(value) => Json::Number(value.into()),
        Value::Float(value) => Number::from_f64(f64::from(value)).map_or(Json::Null, Json::Number),
        Value::Double(value) => Number::from_f64(value).map_or(Json::Null, Json::Number),
        Value::Bytes(bytes) | Value::Fixed(_, bytes) => Json::String(format!("0x{}", hex::encode(bytes))),
        Value::String(text) | Value::Enum(_, text) => Json::String(text),
        Value::Union(_, value) => from_avro(*value),
        Value::Array(items) => Json::Array(items.into_iter().map(from_avro).collect()),
        Value::Map(entries) => Json::Object(entries.into_iter().map(|(key, value)| (key, from_avro(value))).collect()),
        Value::Record(fields) => {
            Json::Object(fields.into_iter().map(|(name, value)| (name, from_avro(value))).collect::<Map<_, _>>())
        }
        // Our schemas use no logical types.
        _ => Json::Null,
    }
}
