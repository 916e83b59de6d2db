"""Checks of the way to the broker, in the order in which a connection comes about."""

from __future__ import annotations

import time
from functools import partial

from edge import homeassistant
from edge.adapters import broker_settings
from edge.checks.finding import Chain, Check, Doubt
from edge.client_id import fingerprint, new_client_id
from edge.config import Config
from edge.errors import BrokerRefused
from edge.message import CLIENT
from edge.mqtt import BrokerSettings, probe, probe_broker
from edge.state import STATE_FILE, in_use, is_unused, known_client_id
from edge.topics import Topics

_RENEW_DAYS = 14
_NOT_TOLD = "MQTT 3.1.1 does not tell whether messages are refused"


def login(config: Config) -> Chain:
    """Whether the broker lets this device in, in one step."""
    return (Check("broker", partial(_login, config)),)


def step_by_step(config: Config) -> Chain:
    """The same with every step by itself, and what the device may do once it is in."""
    certificate = (Check("broker TLS", partial(_certificate, config)),) if config.mqtt.tls else ()
    announcing = (Check("Home Assistant", partial(_announce, config)),) if config.mqtt.homeassistant else ()
    return (
        Check("broker name", partial(_name, config)),
        Check("broker port", partial(_port, config)),
        *certificate,
        *login(config),
        Check("publish right", partial(_publish, config)),
        Check("listen right", partial(_listen, config)),
        *announcing,
        Check("device name", partial(_device_name, config)),
        Check("client id", partial(_client_id, config)),
    )


def _settings(config: Config) -> BrokerSettings:
    return broker_settings(config, new_client_id())


def _topics(config: Config) -> Topics:
    return Topics(config.mqtt.prefix, config.device.name)


def _login(config: Config) -> str:
    settings = _settings(config)
    protocol = probe_broker(settings)
    return f"{settings.address} speaks {protocol}" + (" over TLS" if settings.tls else "")


def _name(config: Config) -> str:
    settings = _settings(config)
    return f"{settings.host} is {', '.join(probe.resolve(settings))}"


def _port(config: Config) -> str:
    settings = _settings(config)
    probe.reach(settings)
    return f"{settings.address} accepts connections"


def _certificate(config: Config) -> str:
    settings = _settings(config)
    days = int((probe.certificate_expiry_s(settings) - time.time()) / 86400)
    if days < _RENEW_DAYS:
        raise Doubt(f"the broker's certificate expires in {days} days", where=settings.address,
                    remedy="Renew the broker's certificate")  # fmt: skip
    return f"trusted, {days} days until the broker's certificate expires"


def _publish(config: Config) -> str:
    topics = _topics(config)
    told = probe.probe_publish(_settings(config), topics.probe)
    return f"granted on {topics.probe}" if told else _NOT_TOLD


def _listen(config: Config) -> str:
    topics, settings = _topics(config), _settings(config)
    wanted = [topics.status, *topics.commands(config.device.groups)]
    if config.mqtt.homeassistant:
        wanted.append(homeassistant.status_topic(config.mqtt.homeassistant_prefix))
    if refused := probe.probe_subscriptions(settings, wanted):
        raise Doubt(f"refused on {', '.join(refused)}, so commands or notices do not arrive", where=settings.address,
                    remedy="Allow it in the broker's access list")  # fmt: skip
    return f"not refused on {', '.join(wanted)}"


def _announce(config: Config) -> str:
    settings = _settings(config)
    topic = homeassistant.probe_topic(_topics(config), config.mqtt.homeassistant_prefix)
    try:
        told = probe.probe_publish(settings, topic)
    except BrokerRefused as refusal:
        raise Doubt(f"{refusal.what}, so it may not find this device", where=settings.address,
                    remedy=f"{refusal.remedy}, or set mqtt.homeassistant to false") from refusal  # fmt: skip
    return f"may be told of this device under {config.mqtt.homeassistant_prefix}/..." if told else _NOT_TOLD


def _device_name(config: Config) -> str:
    name, folder, settings = config.device.name, config.device.state_dir, _settings(config)
    kept = probe.probe_retained(settings, _topics(config).status)
    online = kept is not None and kept.payload == b"online"
    speaker = dict(kept.user_properties).get(CLIENT) if kept is not None else None
    client_id = known_client_id(folder)
    ours = in_use(folder) if speaker is None else client_id is not None and speaker == fingerprint(client_id)
    if not online or ours:
        return f"no other device is seen to be called {name}"
    if client_id is None and not is_unused(folder):
        return f"{name} is online; whether as this device cannot be told, as {folder / STATE_FILE} cannot be read"
    if speaker is None:
        raise Doubt(f"{name} is online, and no agent runs here; MQTT 3.1.1 does not tell who it is",
                    where=settings.address, remedy="If it is another device, give each its own device.name; "
                    "if an agent was killed here just now, try again in a minute")  # fmt: skip
    raise Doubt(f"another device is called {name} too", where=settings.address,
                remedy="Give each its own device.name: their messages and commands mix")  # fmt: skip


def _client_id(config: Config) -> str:
    folder = config.device.state_dir
    client_id = known_client_id(folder)
    if client_id is None:
        return "will be made at the first start"
    if in_use(folder):
        return f"{client_id}, of the agent that is running here"
    settings = broker_settings(config, client_id)
    match probe.probe_client_id(settings):
        case None:
            return f"{client_id}; MQTT 3.1.1 does not tell whether it is taken"
        case False:
            return f"{client_id}, taken by nobody else"
    raise BrokerRefused(
        f"another client is connected as {client_id}", where=settings.address,
        remedy=f"If this device was copied from another, delete {folder / STATE_FILE} here; "
        "if an agent was killed here just now, try again in half a minute",
    )  # fmt: skip
