"""Checks of the connection to the broker, in the order in which it is established."""

from __future__ import annotations

import time
from functools import partial

from edge import homeassistant
from edge.adapters import broker_settings
from edge.checks.check import Chain, Check, CheckWarning
from edge.client_id import fingerprint, new_client_id
from edge.config import Config
from edge.errors import BrokerRefused
from edge.message import CLIENT
from edge.mqtt import BrokerSettings, probe, probe_broker
from edge.state import STATE_FILE, in_use, is_unused, known_client_id
from edge.topics import Topics

_RENEW_DAYS = 14
_NOT_REPORTED = "cannot be checked: an MQTT 3.1.1 broker does not report rejected messages"


def login(config: Config) -> Chain:
    """Checks in one step that this device can connect to the broker."""
    return (Check("broker", partial(_login, config)),)


def step_by_step(config: Config) -> Chain:
    """Checks each step of the connection separately, then what the device is authorized to do."""
    certificate = (Check("broker TLS", partial(_certificate, config)),) if config.mqtt.tls else ()
    discovery = (Check("Home Assistant", partial(_discovery, config)),) if config.mqtt.homeassistant else ()
    return (
        Check("broker name", partial(_name, config)),
        Check("broker port", partial(_port, config)),
        *certificate,
        *login(config),
        Check("MQTT publish", partial(_publish, config)),
        Check("MQTT subscribe", partial(_subscribe, config)),
        *discovery,
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
    return f"connected to {settings.address} with {protocol}" + (" over TLS" if settings.tls else "")


def _name(config: Config) -> str:
    settings = _settings(config)
    return f"{settings.host} resolves to {', '.join(probe.resolve(settings))}"


def _port(config: Config) -> str:
    settings = _settings(config)
    probe.reach(settings)
    return f"{settings.address} accepts connections"


def _certificate(config: Config) -> str:
    settings = _settings(config)
    days = int((probe.certificate_expiry_s(settings) - time.time()) / 86400)
    if days < _RENEW_DAYS:
        raise CheckWarning(f"the broker's certificate expires in {days} days", where=settings.address,
                           remedy="Renew the broker's certificate")  # fmt: skip
    return f"trusted, {days} days until the broker's certificate expires"


def _publish(config: Config) -> str:
    topics = _topics(config)
    reported = probe.probe_publish(_settings(config), topics.probe)
    return f"allowed on {topics.probe}" if reported else _NOT_REPORTED


def _subscribe(config: Config) -> str:
    topics, settings = _topics(config), _settings(config)
    topic_filters = [topics.status, *topics.commands(config.device.groups)]
    if config.mqtt.homeassistant:
        topic_filters.append(homeassistant.status_topic(config.mqtt.homeassistant_prefix))
    if rejected := probe.probe_subscriptions(settings, topic_filters):
        raise CheckWarning(f"rejected for {', '.join(rejected)}: commands or notifications are not received",
                           where=settings.address, remedy="Allow them in the broker's access list")  # fmt: skip
    return f"accepted for {', '.join(topic_filters)}"


def _discovery(config: Config) -> str:
    settings = _settings(config)
    topic = homeassistant.probe_topic(_topics(config), config.mqtt.homeassistant_prefix)
    try:
        reported = probe.probe_publish(settings, topic)
    except BrokerRefused as refusal:
        raise CheckWarning(
            f"{refusal.what}, so Home Assistant may not discover this device", where=settings.address,
            remedy=f"{refusal.remedy}, or set mqtt.homeassistant to false",
        ) from refusal  # fmt: skip
    return f"discovery is allowed on {config.mqtt.homeassistant_prefix}/..." if reported else _NOT_REPORTED


def _device_name(config: Config) -> str:
    name, folder, settings = config.device.name, config.device.state_dir, _settings(config)
    retained = probe.probe_retained(settings, _topics(config).status)
    online = retained is not None and retained.payload == b"online"
    sender = dict(retained.user_properties).get(CLIENT) if retained is not None else None
    client_id = known_client_id(folder)
    ours = in_use(folder) if sender is None else client_id is not None and sender == fingerprint(client_id)
    if not online or ours:
        return f"no other device named {name} was seen online"
    if client_id is None and not is_unused(folder):
        return f"{name} is online; cannot tell whether it is this device, as {folder / STATE_FILE} cannot be read"
    if sender is None:
        raise CheckWarning(
            f"{name} is online although no agent runs here; MQTT 3.1.1 does not identify the sender",
            where=settings.address, remedy="If it is another device, give each its own device.name; "
            "if an agent was just killed here, try again in a minute",
        )  # fmt: skip
    raise CheckWarning(
        f"another device is also named {name}", where=settings.address,
        remedy="Give each device its own device.name, or their messages and commands get mixed up",
    )  # fmt: skip


def _client_id(config: Config) -> str:
    folder = config.device.state_dir
    client_id = known_client_id(folder)
    if client_id is None:
        return "will be generated at the first start"
    if in_use(folder):
        return f"{client_id}, used by the agent running here"
    settings = broker_settings(config, client_id)
    match probe.probe_client_id(settings):
        case None:
            return f"{client_id}; MQTT 3.1.1 does not report whether another client uses it"
        case False:
            return f"{client_id}, used by no other client"
    raise BrokerRefused(
        f"another client is connected as {client_id}", where=settings.address,
        remedy=f"If this device was copied from another, delete {folder / STATE_FILE} here; "
        "if an agent was just killed here, try again in half a minute",
    )  # fmt: skip
