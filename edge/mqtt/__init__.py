"""The MQTT client: broker settings, the connection and the session on it, and broker faults as readable errors."""

from edge.mqtt.commands import CommandHandler
from edge.mqtt.monitor import PublisherStats
from edge.mqtt.probe import probe_broker
from edge.mqtt.settings import BrokerSettings, Tls

__all__ = ["BrokerSettings", "CommandHandler", "PublisherStats", "Tls", "probe_broker"]
