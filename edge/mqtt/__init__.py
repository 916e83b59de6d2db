"""The parts of the MQTT session: settings, one connection, what travels over it, and its faults in plain words."""

from edge.mqtt.commands import CommandHandler
from edge.mqtt.logbook import PublisherStats
from edge.mqtt.probe import probe_broker
from edge.mqtt.settings import BrokerSettings, Tls

__all__ = ["BrokerSettings", "CommandHandler", "PublisherStats", "Tls", "probe_broker"]
