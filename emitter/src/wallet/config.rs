//! How the configuration names the account and where its key is.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alloy::primitives::Address;
use kms_runtime::config::{Configuration, Endpoint, Problems, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Wallet;
use super::aws_kms::{self, AwsKms, Credentials, Settings};

/// The account that sends and pays: the node's registered transaction sender, not its signer. Nothing else may use it while an
/// emitter does. Its key is given by exactly one of `private_key`, `keystore` and `aws_kms_key_id`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct WalletConfig {
    /// Its private key, 32 bytes in hex.
    #[serde(default)]
    pub private_key: Option<Secret>,
    /// Its private key, encrypted: the JSON of a keystore (Web3 Secret Storage, version 3), as geth, clef and
    /// `cast wallet` write it. As a rule the path of the file is given, as `keystore_file`.
    #[serde(default)]
    pub keystore: Option<Secret>,
    /// Password of the keystore.
    #[serde(default)]
    pub keystore_password: Option<Secret>,
    /// Id, ARN or alias (`alias/…`) of a key in AWS KMS, of the spec ECC_SECG_P256K1 and for SIGN_VERIFY. Needs `address`, and
    /// the permissions `kms:GetPublicKey` and `kms:Sign`.
    #[serde(default)]
    #[schemars(length(min = 1, max = 2048))]
    pub aws_kms_key_id: Option<String>,
    /// Region of the key. Without it: the region in its ARN, else AWS_REGION or AWS_DEFAULT_REGION of the environment.
    #[serde(default)]
    pub aws_region: Option<String>,
    /// Endpoint of AWS KMS in place of the region's own.
    #[serde(default)]
    pub aws_endpoint_url: Option<Endpoint>,
    /// Access key id. Without it AWS's usual places are looked through: environment, profile, web identity, container and instance.
    #[serde(default)]
    pub aws_access_key_id: Option<String>,
    /// Its secret.
    #[serde(default)]
    pub aws_secret_access_key: Option<Secret>,
    /// Session token of temporary credentials.
    #[serde(default)]
    pub aws_session_token: Option<Secret>,
    /// Milliseconds that one call of AWS KMS may take, credentials included.
    #[serde(default = "aws_timeout_ms")]
    #[schemars(range(min = 100, max = 60_000))]
    pub aws_timeout_ms: u64,
    /// Calls of AWS KMS at once.
    #[serde(default = "aws_concurrency")]
    #[schemars(range(min = 1, max = 256))]
    pub aws_concurrency: usize,
    /// Its address, to be held against the key. Required with `aws_kms_key_id`.
    #[serde(default)]
    #[schemars(with = "Option<String>", extend("format" = "address"))]
    pub address: Option<Address>,
    /// Gwei below which the account is reported as low on funds.
    #[serde(default = "low_balance_gwei")]
    pub low_balance_gwei: u64,
    /// What came of it. A keystore takes a second to open.
    #[serde(skip)]
    opened: Opened,
}

const fn aws_timeout_ms() -> u64 {
    5_000
}

const fn aws_concurrency() -> usize {
    16
}

const fn low_balance_gwei() -> u64 {
    100_000_000
}

type Opened = Arc<OnceLock<Result<Wallet, Mistakes>>>;

/// Why a section gives no account: each mistake with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(Vec<(&'static str, String)>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, text)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "; " };
            write!(f, "{comma}wallet.{key}: {text}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl Configuration for WalletConfig {
    fn validate(&self, problems: &mut Problems) {
        if let Err(Mistakes(mistakes)) = self.wallet() {
            for (key, text) in mistakes {
                problems.at(key, text);
            }
        }
    }
}

impl WalletConfig {
    /// The account, opened once for a configuration and its copies. Asks nobody.
    ///
    /// # Errors
    /// Every mistake. None repeats anything secret.
    pub fn wallet(&self) -> Result<Wallet, Mistakes> {
        self.opened.get_or_init(|| self.open().map_err(Mistakes)).clone()
    }

    fn open(&self) -> Result<Wallet, Vec<(&'static str, String)>> {
        let mut mistakes = self.strays();
        let given = [
            ("private_key", self.private_key.is_some()),
            ("keystore", self.keystore.is_some()),
            ("aws_kms_key_id", self.aws_kms_key_id.is_some()),
        ];
        let given: Vec<&'static str> = given.into_iter().filter_map(|(key, given)| given.then_some(key)).collect();
        if let [first, others @ ..] = &given[..] {
            let text = format!("`{first}` is given too: an account has one key, in one place");
            mistakes.extend(others.iter().map(|other| (*other, text.clone())));
        } else {
            let text = "none of private_key, keystore, aws_kms_key_id is given (the first two also as …_file): nothing to \
                        sign with";
            mistakes.push(("private_key", text.to_owned()));
        }
        if given.len() != 1 {
            return Err(mistakes);
        }
        let wallet = match (&self.private_key, &self.keystore, &self.aws_kms_key_id) {
            (Some(key), ..) => Wallet::new(key).map_err(|error| vec![("private_key", error.to_string())]),
            (_, Some(keystore), _) => self.open_keystore(keystore),
            (.., Some(key_id)) => self.open_aws_kms(key_id),
            (None, None, None) => Err(Vec::new()),
        };
        match wallet {
            Err(more) => mistakes.extend(more),
            Ok(wallet) => {
                if let Some(wrong) = self.address.filter(|address| *address != wallet.address()) {
                    mistakes.push(("address", format!("is {wrong}, the key belongs to {}", wallet.address())));
                }
                if mistakes.is_empty() {
                    return Ok(wallet);
                }
            }
        }
        Err(mistakes)
    }

    /// Keys that belong to another kind of signer, or to nothing.
    fn strays(&self) -> Vec<(&'static str, String)> {
        let mut strays = Vec::new();
        if self.keystore_password.is_some() && self.keystore.is_none() {
            strays.push(("keystore_password", "no keystore is given".to_owned()));
        }
        let of_aws = [
            ("aws_region", self.aws_region.is_some()),
            ("aws_endpoint_url", self.aws_endpoint_url.is_some()),
            ("aws_access_key_id", self.aws_access_key_id.is_some()),
            ("aws_secret_access_key", self.aws_secret_access_key.is_some()),
            ("aws_session_token", self.aws_session_token.is_some()),
        ];
        if self.aws_kms_key_id.is_none() {
            let given = of_aws.into_iter().filter(|(_, given)| *given);
            strays.extend(given.map(|(key, _)| (key, "no aws_kms_key_id is given".to_owned())));
        }
        strays
    }

    fn open_keystore(&self, keystore: &Secret) -> Result<Wallet, Vec<(&'static str, String)>> {
        let Some(password) = &self.keystore_password else {
            return Err(vec![(
                "keystore_password",
                "required with a keystore, better as keystore_password_file".to_owned(),
            )]);
        };
        Wallet::from_keystore(keystore, password).map_err(|error| vec![("keystore", error.to_string())])
    }

    fn open_aws_kms(&self, key_id: &str) -> Result<Wallet, Vec<(&'static str, String)>> {
        let mut mistakes = Vec::new();
        let region = aws_kms::region(self.aws_region.as_deref(), key_id);
        let region = region.unwrap_or_else(|text| {
            mistakes.push(("aws_region", text));
            String::new()
        });
        if self.address.is_none() {
            let text = "required with aws_kms_key_id; `kmsctl executor address --aws-kms-key-id …` asks for it";
            mistakes.push(("address", text.to_owned()));
        }
        let credentials = self.credentials().unwrap_or_else(|mistake| {
            mistakes.push(mistake);
            None
        });
        let (Some(address), true) = (self.address, mistakes.is_empty()) else {
            return Err(mistakes);
        };
        let settings = Settings {
            key_id: key_id.to_owned(),
            region,
            endpoint: self.aws_endpoint_url.clone(),
            credentials,
            timeout: Duration::from_millis(self.aws_timeout_ms),
            concurrency: self.aws_concurrency,
        };
        let kms = AwsKms::new(settings).map_err(|text| vec![("aws_kms_key_id", format!("no HTTP client: {text}"))])?;
        Ok(Wallet::in_aws_kms(kms, address))
    }

    /// Fixed credentials, complete or not at all.
    fn credentials(&self) -> Result<Option<Credentials>, (&'static str, String)> {
        match (&self.aws_access_key_id, &self.aws_secret_access_key) {
            (Some(id), Some(secret)) => Ok(Some(Credentials {
                access_key_id: id.clone(),
                secret_access_key: secret.clone(),
                session_token: self.aws_session_token.clone(),
            })),
            (None, None) if self.aws_session_token.is_none() => Ok(None),
            (Some(_), None) => Err(("aws_secret_access_key", "required with aws_access_key_id".to_owned())),
            (None, _) => Err(("aws_access_key_id", "required with the secret and the session token".to_owned())),
        }
    }
}
