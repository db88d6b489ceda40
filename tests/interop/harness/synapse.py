"""A real Synapse with SQLite on loopback: the peer of the federation scenes, and a second opinion.

The scenes of one server can be played against it (`run.py --against synapse`), which tells whether
a failure is the scene's or the server's. It runs from a venv of its own, named by `SYNAPSE_VENV`.
"""

import json
import os
import re

from .server import Server


class Synapse(Server):
    """Synapse with the same ports, names and freedoms as Ingle has in the tests."""

    kind = "synapse"
    # Not that of the other server, so that an ACL can tell them apart.
    host = "127.0.0.1"
    NO_NEWS = re.compile(
        r"synapse\.config\.logger|already registered for server"
        # What the scene lets somebody try in vain.
        r"|make_(join|knock)|Failed to create new knock|/query/(directory|profile)|Error retrieving alias"
        r"|may not take part in this room|from banned server"
        # Clients that hang up or log out, and keys that are replaced in the middle of a login.
        r"|Not sending response to request|Invalid access token|during the UI authentication session"
        # A server that is killed.
        r"|Failed to send transaction: Failed to send request: ConnectionRefusedError"
        # Its own affairs.
        r"|Background process 'task-update_join_states'|synapse\.(storage\.database|logging\.context|util\.|metrics)"
    )

    def configure(self):
        resources = [{"names": ["client", "federation"]}]
        bind = {"bind_addresses": ["127.0.0.1"], "type": "http", "resources": resources}
        plenty = {"per_second": 10_000, "burst_count": 10_000}
        config = {
            "server_name": self.name,
            "public_baseurl": self.tls_url,
            "report_stats": False,
            "pid_file": str(self.folder / "synapse.pid"),
            "signing_key_path": str(self.folder / "signing.key"),
            "log_config": str(self.folder / "log.json"),
            "media_store_path": str(self.folder / "media"),
            "database": {"name": "sqlite3", "args": {"database": str(self.folder / "synapse.db")}},
            "listeners": [{"port": self.port, **bind}, {"port": self.tls_port, "tls": True, **bind}],
            "tls_certificate_path": str(self.folder / "fullchain.pem"),
            "tls_private_key_path": str(self.folder / "key.pem"),
            "federation_custom_ca_list": [str(self.authority_file)],
            "ip_range_blacklist": [],
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "allow_public_rooms_over_federation": True,
            "room_list_publication_rules": [{"action": "allow"}],
            "enable_registration": True,
            "enable_registration_without_verification": True,
            "registration_shared_secret": "a shared secret",
            "bcrypt_rounds": 4,
            "presence": {"enabled": True},
            "rc_message": plenty,
            "rc_registration": plenty,
            "rc_login": {"address": plenty, "account": plenty, "failed_attempts": plenty},
            "rc_joins": {"local": plenty, "remote": plenty},
            "rc_joins_per_room": plenty,
            "rc_invites": {"per_room": plenty, "per_user": plenty, "per_issuer": plenty},
            "rc_room_creation": plenty,
            "rc_presence": {"per_user": plenty},
            "rc_federation": {"window_size": 1000, "sleep_limit": 100_000, "reject_limit": 100_000, "concurrent": 100},
            # It tries again within a request, and does not hear meanwhile that the other server is back.
            "federation": {"max_long_retry_delay": "1s"},
            "experimental_features": {"msc4222_enabled": True},
        }
        log = {
            "version": 1,
            "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
            "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "plain"}},
            "root": {"level": "INFO", "handlers": ["console"]},
            "disable_existing_loggers": False,
        }
        (self.folder / "log.json").write_text(json.dumps(log))
        # JSON is YAML too.
        (self.folder / "homeserver.yaml").write_text(json.dumps(config, indent=1))

    def command(self):
        python = os.path.join(os.environ["SYNAPSE_VENV"], "bin", "python")
        config = str(self.folder / "homeserver.yaml")
        run = f"{python} -m synapse.app.homeserver -c {config}"
        return ["bash", "-c", f"[ -e signing.key ] || {run} --generate-keys; exec {run}"]
