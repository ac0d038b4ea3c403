//! External accounts as an operator makes them, and bindings to them, right or wrong.

use acme_server::sealing::{MacKey, SealingKey, seal};
use aws_lc_rs::hmac;
use ca_core::acme::external_account::{ExternalAccount, ExternalAccountState, GrantConfig, Uses};
use ca_core::acme::{DirectoryName, Grant};
use ca_core::id::ExternalAccountId;
use ca_core::random::SystemRandom;
use ca_core::store::{Change, Commit, Version};
use ca_core::time::Clock;
use serde_json::{Value, json};

use super::key::base64url;
use super::{Answer, Ca, Client, Key};

/// A key identifier with its MAC key.
pub struct Eab {
    pub id: ExternalAccountId,
    pub key: MacKey,
}

/// A grant of what the directory admits.
pub fn anything() -> GrantConfig {
    GrantConfig { wildcards: true, ..GrantConfig::default() }
}

/// A grant of these names.
pub fn names(names: &[&str]) -> GrantConfig {
    GrantConfig { names: names.iter().map(ToString::to_string).collect(), ..GrantConfig::default() }
}

impl Ca {
    /// Stores an external account of the directory `default`, as `change` makes it.
    pub async fn external(&self, grant: GrantConfig, change: impl FnOnce(&mut ExternalAccount)) -> Eab {
        let now = self.clock.now();
        let directory: DirectoryName = "default".to_owned().try_into().unwrap();
        let directories = self.config.directories().unwrap();
        let settings = directories.iter().find(|settings| settings.policy.directory == directory).unwrap();
        let (id, key) =
            (ExternalAccountId::generate(now, &mut SystemRandom), MacKey::generate(&mut SystemRandom));
        let sealing_key = SealingKey::from_octets(&self.sealing_key).unwrap();
        let mut external = ExternalAccount {
            id,
            mac_key: seal(sealing_key.public_key(), &directory, id, &key).unwrap(),
            directory,
            owner: "somebody".to_owned().try_into().unwrap(),
            uses: Uses::Many,
            expires_at: None,
            grant: Grant::new(&grant, &settings.policy).unwrap(),
            state: ExternalAccountState::Valid,
            created_at: now,
            version: Version::NEW,
        };
        change(&mut external);
        self.put(Change::PutExternalAccount(Box::new(external))).await;
        Eab { id, key }
    }

    pub async fn put(&self, change: Change) {
        self.store.commit(Commit { changes: vec![change], ..Commit::default() }).await.unwrap();
    }

    /// The row of an external account.
    pub async fn external_row(&self, eab: &Eab) -> ExternalAccount {
        self.store.external_account(eab.id).await.unwrap().unwrap()
    }

    /// As an operator revokes one.
    pub async fn revoke_external(&self, eab: &Eab) {
        let revoked = self.external_row(eab).await.revoked(self.clock.now());
        self.put(Change::PutExternalAccount(Box::new(revoked))).await;
    }

    /// A client whose account is bound.
    pub async fn bound_client(&self, eab: &Eab) -> Client {
        let mut client = self.stranger(Key::p256()).await;
        let answer = client.bind(&eab.binding(&client)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        client.kid = Some(answer.location().to_owned());
        client
    }
}

impl Client {
    /// newAccount with a binding.
    pub async fn bind(&self, binding: &Value) -> Answer {
        let payload = json!({"termsOfServiceAgreed": true, "externalAccountBinding": binding});
        self.post(&self.resource("newAccount"), &payload).await
    }
}

impl Eab {
    /// The protected header that a good client makes.
    pub fn header(&self, client: &Client) -> Value {
        json!({"alg": "HS256", "kid": self.id, "url": client.resource("newAccount")})
    }

    /// The binding that a good client makes.
    pub fn binding(&self, client: &Client) -> Value {
        self.jws(&self.header(client), client.key.jwk().to_string().as_bytes())
    }

    /// A JWS with exactly this protected header and the MAC that its `alg` says, or HS256.
    pub fn jws(&self, header: &Value, payload: &[u8]) -> Value {
        let algorithm = match header["alg"].as_str() {
            Some("HS384") => hmac::HMAC_SHA384,
            Some("HS512") => hmac::HMAC_SHA512,
            _ => hmac::HMAC_SHA256,
        };
        let (protected, payload) = (base64url(header.to_string().as_bytes()), base64url(payload));
        let key = hmac::Key::new(algorithm, self.key.octets());
        let tag = hmac::sign(&key, format!("{protected}.{payload}").as_bytes());
        json!({"protected": protected, "payload": payload, "signature": base64url(tag.as_ref())})
    }
}
