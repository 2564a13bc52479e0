//! Avro's binary encoding, as far as our schemas use it, straight between the record types and bytes.
//!
//! Why not the serde path of `apache-avro`: its reader cannot resolve schemas, its generic reader takes the end of the
//! bytes for an empty value and allocates what a length field asks for before it looks at what is there, and a record
//! as a generic value costs several times the encoding itself. What is read here comes from topics that others can
//! write to, so every length is checked against what is left, and every error names field and byte.
//!
//! One list per type ([`record!`], [`choice!`] in `layout.rs`) makes reader, writer and, for the tests, the shape that
//! is compared with the schema, so that the three cannot drift apart.

use std::fmt;

use alloy::primitives::{Address, B256, Bytes, U256};

use crate::identity::RequestId;

/// What is wrong with a value that cannot be read or written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// Field names from the innermost outwards.
    path: Vec<&'static str>,
    /// Byte of the Avro body at which it was found; none when writing.
    pub at: Option<usize>,
    /// What it is.
    pub flaw: Flaw,
}

/// The kinds of [`Defect`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The bytes are fewer than the value needs.
    #[error("the bytes end inside the value")]
    Truncated,
    /// Bytes are left after the whole record.
    #[error("{0} bytes are left over after the record")]
    Trailing(usize),
    /// A variable-length number does not fit into 64 bits.
    #[error("a variable-length number does not fit into 64 bits")]
    Overlong,
    /// A length or count is negative, or larger than what is left.
    #[error("the length {0} is negative or more than what is left")]
    Length(i64),
    /// A number is outside the range of its type.
    #[error("{0} is outside the range of {1}")]
    Range(i128, &'static str),
    /// A string is not UTF-8.
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// A union has no such branch.
    #[error("the union has no branch {0}")]
    Branch(i64),
    /// An enum has no such symbol.
    #[error("the enum has no symbol {0}")]
    Symbol(i64),
    /// A kind or form that only newer schemas know.
    #[error("the value is of a kind that this version does not know")]
    Unknown,
    /// The form names one body and another is set, or none, or several.
    #[error("the form is `{0}`, but the fields that are set do not belong to it")]
    Form(&'static str),
    /// The bytes do not fit the older schema that they name.
    #[error("{0}")]
    Foreign(String),
}

impl Defect {
    pub(crate) fn new(at: Option<usize>, flaw: Flaw) -> Box<Self> {
        Box::new(Self { path: Vec::new(), at, flaw })
    }

    /// The field, outermost name first, e.g. `log.topics`; empty for the record itself.
    #[must_use]
    pub fn field(&self) -> String {
        self.path.iter().rev().copied().collect::<Vec<_>>().join(".")
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "field {}", self.field())?;
        }
        if let Some(at) = self.at {
            let separator = if self.path.is_empty() { "" } else { ", " };
            write!(f, "{separator}byte {at}")?;
        }
        if !self.path.is_empty() || self.at.is_some() {
            f.write_str(": ")?;
        }
        write!(f, "{}", self.flaw)
    }
}

impl std::error::Error for Defect {}

/// The outcome of reading or writing one value.
pub(crate) type Wired<T> = Result<T, Box<Defect>>;

/// Names the field in an error on its way out.
pub(crate) fn in_field<T>(name: &'static str, outcome: Wired<T>) -> Wired<T> {
    outcome.map_err(|mut defect| {
        defect.path.push(name);
        defect
    })
}

/// Runs `body`, so that `?` in it ends it alone.
pub(crate) fn attempt<T>(body: impl FnOnce() -> Wired<T>) -> Wired<T> {
    body()
}

/// A type with an Avro encoding.
pub(crate) trait Wire: Sized {
    fn write(&self, out: &mut Vec<u8>) -> Wired<()>;
    fn read(input: &mut Input<'_>) -> Wired<Self>;
    /// What the schema must look like.
    #[cfg(test)]
    fn shape() -> Shape;
}

/// The structure of an Avro schema, without documentation, defaults and namespace.
#[cfg(test)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Int,
    Long,
    Bytes,
    Text,
    Fixed(&'static str, usize),
    Array(Box<Shape>),
    Optional(Box<Shape>),
    Enum(&'static str, Vec<&'static str>),
    Record(&'static str, Vec<(&'static str, Shape)>),
}

#[cfg(test)]
pub(crate) fn shape_of<R, T: Wire>(_: impl Fn(&R) -> &T) -> Shape {
    T::shape()
}

#[cfg(test)]
pub(crate) fn shape_of_chosen<R, T: Wire>(_: impl Fn(&R) -> Option<&T>) -> Shape {
    T::shape()
}

/// Bytes being read.
pub(crate) struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn defect(&self, flaw: Flaw) -> Box<Defect> {
        Defect::new(Some(self.at), flaw)
    }

    fn take(&mut self, count: usize) -> Wired<&'a [u8]> {
        let Some(taken) = self.bytes.get(self.at..self.at.saturating_add(count)) else {
            return Err(self.defect(Flaw::Truncated));
        };
        self.at += count;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Wired<[u8; N]> {
        let Some(taken) = self.bytes[self.at..].first_chunk::<N>() else {
            return Err(self.defect(Flaw::Truncated));
        };
        self.at += N;
        Ok(*taken)
    }

    pub(crate) fn long(&mut self) -> Wired<i64> {
        let mut zigzag = 0u64;
        for (index, byte) in self.bytes[self.at..].iter().take(10).enumerate() {
            let bits = u64::from(byte & 0x7f);
            // The tenth byte holds the last of 64 bits.
            if index == 9 && bits > 1 {
                return Err(self.defect(Flaw::Overlong));
            }
            zigzag |= bits << (7 * index);
            if byte & 0x80 == 0 {
                self.at += index + 1;
                return Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
            }
        }
        Err(self.defect(if self.left() < 10 { Flaw::Truncated } else { Flaw::Overlong }))
    }

    fn length(&mut self) -> Wired<usize> {
        let start = self.at;
        let length = self.long()?;
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= self.left())
            .ok_or_else(|| Defect::new(Some(start), Flaw::Length(length)))
    }

    /// The branch of a union of null and one type: whether the value is there.
    pub(crate) fn is_present(&mut self) -> Wired<bool> {
        match self.long()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.defect(Flaw::Branch(other))),
        }
    }

    /// The symbol of an enum.
    pub(crate) fn symbol(&mut self, symbols: &[&'static str]) -> Wired<&'static str> {
        let index = self.long()?;
        usize::try_from(index)
            .ok()
            .and_then(|index| symbols.get(index))
            .copied()
            .ok_or_else(|| self.defect(Flaw::Symbol(index)))
    }

    /// The whole input as one value.
    pub(crate) fn read_all<T: Wire>(bytes: &'a [u8]) -> Wired<T> {
        let mut input = Self::new(bytes);
        let value = T::read(&mut input)?;
        match input.left() {
            0 => Ok(value),
            left => Err(input.defect(Flaw::Trailing(left))),
        }
    }
}

pub(crate) fn write_long(value: i64, out: &mut Vec<u8>) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag > 0x7f {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    // A slice is never longer than `isize::MAX`.
    write_long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

/// Unsigned and narrow integers travel as `long` or `int`: what does not fit is an error, never another number.
macro_rules! integer {
    ($($ty:ident as $shape:ident),+) => {$(
        impl Wire for $ty {
            fn write(&self, out: &mut Vec<u8>) -> Wired<()> {
                let value = i64::try_from(*self)
                    .map_err(|_| Defect::new(None, Flaw::Range(i128::from(*self), "an Avro long")))?;
                write_long(value, out);
                Ok(())
            }

            fn read(input: &mut Input<'_>) -> Wired<Self> {
                let start = input.at;
                let value = input.long()?;
                Self::try_from(value)
                    .map_err(|_| Defect::new(Some(start), Flaw::Range(i128::from(value), stringify!($ty))))
            }

            #[cfg(test)]
            fn shape() -> Shape {
                Shape::$shape
            }
        }
    )+};
}

integer!(u8 as Int, i32 as Int, u32 as Long, u64 as Long, i64 as Long);

/// Types of a fixed number of bytes, as a named `fixed`.
macro_rules! fixed {
    ($($ty:ident as $name:literal, $size:literal, $to:expr, $from:expr;)+) => {$(
        impl Wire for $ty {
            fn write(&self, out: &mut Vec<u8>) -> Wired<()> {
                let to: fn(&Self) -> [u8; $size] = $to;
                out.extend_from_slice(&to(self));
                Ok(())
            }

            fn read(input: &mut Input<'_>) -> Wired<Self> {
                let from: fn([u8; $size]) -> Self = $from;
                input.take_array().map(from)
            }

            #[cfg(test)]
            fn shape() -> Shape {
                Shape::Fixed($name, $size)
            }
        }
    )+};
}

fixed! {
    Address as "Address", 20, |value| value.0.0, Address::from;
    B256 as "Hash", 32, |value| value.0, B256::from;
    RequestId as "RequestId", 32, |value| value.0.0, |bytes| RequestId(B256::from(bytes));
    U256 as "Uint256", 32, U256::to_be_bytes::<32>, U256::from_be_bytes::<32>;
    u128 as "Uint128", 16, |value| value.to_be_bytes(), u128::from_be_bytes;
}

impl Wire for Bytes {
    fn write(&self, out: &mut Vec<u8>) -> Wired<()> {
        write_bytes(self, out);
        Ok(())
    }

    fn read(input: &mut Input<'_>) -> Wired<Self> {
        let length = input.length()?;
        input.take(length).map(Self::copy_from_slice)
    }

    #[cfg(test)]
    fn shape() -> Shape {
        Shape::Bytes
    }
}

impl Wire for String {
    fn write(&self, out: &mut Vec<u8>) -> Wired<()> {
        write_bytes(self.as_bytes(), out);
        Ok(())
    }

    fn read(input: &mut Input<'_>) -> Wired<Self> {
        let start = input.at;
        let length = input.length()?;
        let text = std::str::from_utf8(input.take(length)?).map_err(|_| Defect::new(Some(start), Flaw::NotUtf8))?;
        Ok(text.to_owned())
    }

    #[cfg(test)]
    fn shape() -> Shape {
        Shape::Text
    }
}

impl<T: Wire> Wire for Option<T> {
    fn write(&self, out: &mut Vec<u8>) -> Wired<()> {
        match self {
            None => {
                write_long(0, out);
                Ok(())
            }
            Some(value) => {
                write_long(1, out);
                value.write(out)
            }
        }
    }

    fn read(input: &mut Input<'_>) -> Wired<Self> {
        input.is_present()?.then(|| T::read(input)).transpose()
    }

    #[cfg(test)]
    fn shape() -> Shape {
        Shape::Optional(Box::new(T::shape()))
    }
}

/// A large variant is boxed in Rust; the bytes are those of what is in the box.
impl<T: Wire> Wire for Box<T> {
    fn write(&self, out: &mut Vec<u8>) -> Wired<()> {
        (**self).write(out)
    }

    fn read(input: &mut Input<'_>) -> Wired<Self> {
        T::read(input).map(Self::new)
    }

    #[cfg(test)]
    fn shape() -> Shape {
        T::shape()
    }
}

/// Items allocated ahead at most. A count is only a claim: the rest grows with the items that are really there, each of
/// which takes a byte or more.
const ITEMS_AHEAD: usize = 64;

impl<T: Wire> Wire for Vec<T> {
    fn write(&self, out: &mut Vec<u8>) -> Wired<()> {
        if !self.is_empty() {
            write_long(self.len() as i64, out);
            for item in self {
                item.write(out)?;
            }
        }
        write_long(0, out);
        Ok(())
    }

    fn read(input: &mut Input<'_>) -> Wired<Self> {
        let mut items = Self::new();
        loop {
            let start = input.at;
            let claimed = input.long()?;
            if claimed == 0 {
                return Ok(items);
            }
            // A negative count is followed by the size of the block in bytes, for readers that skip it.
            if claimed < 0 {
                input.length()?;
            }
            let count = usize::try_from(claimed.unsigned_abs())
                .ok()
                .filter(|count| *count <= input.left())
                .ok_or_else(|| Defect::new(Some(start), Flaw::Length(claimed)))?;
            items.reserve(count.min(ITEMS_AHEAD));
            for _ in 0..count {
                items.push(T::read(input)?);
            }
        }
    }

    #[cfg(test)]
    fn shape() -> Shape {
        Shape::Array(Box::new(T::shape()))
    }
}

/// A struct as an Avro record: its fields in schema order, under the names that they have in Rust.
macro_rules! record {
    ($ty:ident as $name:literal { $($field:ident),+ $(,)? }) => {
        impl Wire for $ty {
            fn write(&self, out: &mut Vec<u8>) -> Wired<()> {
                $(in_field(stringify!($field), self.$field.write(out))?;)+
                Ok(())
            }

            fn read(input: &mut Input<'_>) -> Wired<Self> {
                Ok(Self { $($field: in_field(stringify!($field), Wire::read(input))?,)+ })
            }

            #[cfg(test)]
            fn shape() -> Shape {
                Shape::Record($name, vec![$((stringify!($field), shape_of(|value: &Self| &value.$field)),)+])
            }
        }
    };
}

/// A plain enum as an Avro enum.
macro_rules! symbols {
    ($ty:ident as $name:literal { $($unknown:literal,)? $($variant:ident = $symbol:literal),+ $(,)? }) => {
        impl Wire for $ty {
            fn write(&self, out: &mut Vec<u8>) -> Wired<()> {
                let symbol = match self { $(Self::$variant => $symbol,)+ };
                write_symbol(symbol, &[$($unknown,)? $($symbol),+], out);
                Ok(())
            }

            fn read(input: &mut Input<'_>) -> Wired<Self> {
                match input.symbol(&[$($unknown,)? $($symbol),+])? {
                    $($symbol => Ok(Self::$variant),)+
                    _ => Err(input.defect(Flaw::Unknown)),
                }
            }

            #[cfg(test)]
            fn shape() -> Shape {
                Shape::Enum($name, vec![$($unknown,)? $($symbol),+])
            }
        }
    };
}

/// An enum with data as an Avro record: an enum `form`, and one optional record for each variant that has data.
///
/// Not a union of records: with one, no variant could ever be added under FULL_TRANSITIVE, since a reader of the older
/// schema has no branch for it. Here a new variant is a new symbol, which older readers see as `unknown`, and a
/// new optional field, which they skip.
macro_rules! choice {
    ($ty:ident as $name:literal, form $form:literal {
        $($variant:ident = $symbol:literal
            $({ $body:literal: $($field:ident),+ })?
            $(( $inner:ident ))?
        ),+ $(,)?
    } or {
        $($bare:ident = $bare_symbol:literal),+ $(,)?
    }) => {
        impl $ty {
            const SYMBOLS: &'static [&'static str] = &[UNKNOWN, $($symbol,)+ $($bare_symbol),+];
        }

        impl Wire for $ty {
            fn write(&self, out: &mut Vec<u8>) -> Wired<()> {
                let symbol = match self {
                    $(Self::$variant { .. } => $symbol,)+
                    $(Self::$bare => $bare_symbol,)+
                };
                write_symbol(symbol, Self::SYMBOLS, out);
                for slot in [$($symbol),+] {
                    if slot != symbol {
                        write_long(0, out);
                        continue;
                    }
                    write_long(1, out);
                    let outcome = match self {
                        $(
                            $(Self::$variant { $($field),+ } => attempt(|| {
                                $(in_field(stringify!($field), $field.write(out))?;)+
                                Ok(())
                            }),)?
                            $(Self::$variant($inner) => $inner.write(out),)?
                        )+
                        $(Self::$bare => Ok(()),)+
                    };
                    in_field(slot, outcome)?;
                }
                Ok(())
            }

            fn read(input: &mut Input<'_>) -> Wired<Self> {
                let form = in_field("form", input.symbol(Self::SYMBOLS))?;
                let mut chosen: Option<(&'static str, Self)> = None;
                $(
                    if in_field($symbol, input.is_present())? {
                        $(let value = attempt(|| Ok(Self::$variant {
                            $($field: in_field(stringify!($field), Wire::read(input))?,)+
                        }));)?
                        $(let value = Wire::read(input).map(|$inner| Self::$variant($inner));)?
                        let value = in_field($symbol, value)?;
                        if chosen.replace(($symbol, value)).is_some() {
                            return Err(input.defect(Flaw::Form(form)));
                        }
                    }
                )+
                match (form, chosen) {
                    (UNKNOWN, _) => Err(input.defect(Flaw::Unknown)),
                    $(($bare_symbol, None) => Ok(Self::$bare),)+
                    (_, Some((symbol, value))) if symbol == form => Ok(value),
                    _ => Err(input.defect(Flaw::Form(form))),
                }
            }

            #[cfg(test)]
            fn shape() -> Shape {
                let mut fields = vec![("form", Shape::Enum($form, Self::SYMBOLS.to_vec()))];
                $(
                    $(let body = Shape::Record($body, vec![$((
                        stringify!($field),
                        shape_of_chosen(|value: &Self| match value {
                            Self::$variant { $field, .. } => Some($field),
                            _ => None,
                        }),
                    ),)+]);)?
                    $(let body = shape_of_chosen(|value: &Self| match value {
                        Self::$variant($inner) => Some($inner),
                        _ => None,
                    });)?
                    fields.push(($symbol, Shape::Optional(Box::new(body))));
                )+
                Shape::Record($name, fields)
            }
        }
    };
}

pub(crate) use {choice, record, symbols};

/// The symbol that stands for what a reader's schema does not know; it is the default of our enums, and never written.
pub(crate) const UNKNOWN: &str = "unknown";

pub(crate) fn write_symbol(symbol: &str, symbols: &[&str], out: &mut Vec<u8>) {
    // The macros pass a symbol of the list; the default is there for the type alone.
    let index = symbols.iter().position(|candidate| *candidate == symbol).unwrap_or_default();
    write_long(index as i64, out);
}
