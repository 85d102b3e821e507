"""The carriers' networks, for what holds of all of them."""

from tests.callers.phone_exotel import ExotelNetwork
from tests.callers.phone_plivo import PlivoNetwork
from tests.callers.phone_telnyx import TelnyxNetwork
from tests.callers.phone_twilio import TwilioNetwork
from tests.callers.phone_vonage import VonageNetwork

NETWORKS = (TwilioNetwork, TelnyxNetwork, PlivoNetwork, ExotelNetwork, VonageNetwork)
