"""Knowledge table: what drives, floats and flies."""

from __future__ import annotations

from terraprompt.instructions.category import Category, nouns

__all__ = ["VEHICLES"]

VEHICLES = (
    Category(
        name="car",
        nouns=nouns(
            "car/cars",
            "passenger car/passenger cars",
            "automobile/automobiles",
            "small vehicle/small vehicles",
        ),
        held_nouns=nouns("motor car/motor cars", "private vehicle/private vehicles"),
        phrases=("passenger vehicles", "private cars", "family cars", "light vehicles", "cars of any colour"),
        held_phrases=("sedans and hatchbacks", "personal motor vehicles", "four-seat vehicles"),
        uses=(
            "what a commuter would drive to the office",
            "what could carry a family of four on holiday",
            "what should be counted to measure how many parking spaces are taken",
            "what a driving school would teach you to steer first",
            "small machines that people drive and park",
            "what might get a ticket from a traffic warden for parking too long",
            "which objects have four wheels and could carry up to five people",
            "What would a garage mechanic service for private customers?",
            "what people use for trips to the supermarket",
            "what could be rented at an airport to drive yourself",
        ),
        held_uses=(
            "If you owned a garage at home, what would you keep in it?",
            "what can be unlocked with a key fob and seats a few people",
            "what would a valet park for hotel guests?",
            "the machines that are blamed for most of the rush hour",
            "what a teenager may want to drive after the licence test",
        ),
        roles=nouns(
            "means of private travel/means of private travel",
            "machine for a family trip/machines for a family trip",
        ),
        held_roles=nouns(
            "ride for commuters/rides for commuters",
        ),
    ),
    Category(
        name="bus",
        nouns=nouns("bus/buses", "city bus/city buses", "coach/coaches", "passenger bus/passenger buses"),
        held_nouns=nouns("passenger coach/passenger coaches", "omnibus/omnibuses"),
        phrases=(
            "public buses",
            "transit buses",
            "school and city buses",
            "buses and coaches",
            "long passenger vehicles",
        ),
        held_phrases=("public transport vehicles", "line-service coaches", "motor coaches"),
        uses=(
            "what could carry fifty passengers along a fixed route",
            "what people would wait for at a stop",
            "what would a tour group travel in?",
            "long vehicles that are used for public transport",
            "what should arrive by the timetable and sells tickets on board",
            "what a school would hire to bring pupils home",
            "what might have standing room and a row of doors for riders",
            "where commuters sit who do not own a car and ride above the street",
            "what the transit authority would park in its depot",
            "which vehicles are meant for many fare-paying riders",
        ),
        held_uses=(
            "If forty tourists arrived, what would they board?",
            "what can be ridden with a monthly pass on the street",
            "the vehicles that are announced on a stop's timetable",
            "where does a conductor or driver check tickets?",
            "what may kneel at the kerb to let wheelchairs in",
        ),
        roles=nouns("carrier of passengers/carriers of passengers", "ride for tourists/rides for tourists"),
        held_roles=nouns(
            "transport for pupils/transports for pupils",
        ),
    ),
    Category(
        name="truck",
        nouns=nouns(
            "truck/trucks", "lorry/lorries", "freight truck/freight trucks", "cargo truck/cargo trucks"
        ),
        held_nouns=nouns("heavy goods vehicle/heavy goods vehicles", "tractor-trailer/tractor-trailers"),
        phrases=(
            "delivery trucks",
            "trucks and lorries",
            "haulage vehicles",
            "heavy trucks",
            "freight vehicles",
        ),
        held_phrases=("goods vehicles", "articulated lorries", "heavy haulage rigs"),
        uses=(
            "what could haul freight overland",
            "vehicles that are used for moving heavy cargo",
            "what would deliver pallets to a warehouse",
            "what should back up to a loading dock",
            "what might carry gravel to a building site",
            "what a haulage firm would own a fleet of",
            "what would be weighed before it may cross a weak bridge?",
            "what long-distance drivers sleep in at a rest area",
            "which vehicles can tow a loaded trailer",
            "what could move the contents of a whole flat",
        ),
        held_uses=(
            "If a factory had to ship its goods by road, what would it load?",
            "what must stop at a weighbridge with its load",
            "what would a trucker climb into?",
            "the rigs that are filled with crates and driven overnight",
            "what may need diesel by the hundred litres to carry its load",
        ),
        roles=nouns("carrier of freight/carriers of freight", "hauler of goods/haulers of goods"),
        held_roles=nouns(
            "mover of pallets/movers of pallets",
        ),
    ),
    Category(
        name="boat",
        nouns=nouns("boat/boats", "ship/ships", "vessel/vessels", "yacht/yachts"),
        held_nouns=nouns("sailing boat/sailing boats", "watercraft/watercraft"),
        phrases=("moored boats", "boats and ships", "motorboats", "small craft on the water", "marina boats"),
        held_phrases=("seagoing vessels", "pleasure craft", "floating craft"),
        uses=(
            "what could take you out to sea",
            "what a fisherman would use to lay nets",
            "what might be tied to a jetty",
            "things that are meant to float and carry people",
            "what would a harbour master count at the moorings?",
            "what should carry life jackets for everyone aboard",
            "what would sail when the wind is right",
            "what is moored at a pier when not in use",
            "which objects may need an anchor",
            "what could be steered with a rudder across a bay",
        ),
        held_uses=(
            "If the tide rose, what would rise with it at the pier?",
            "what can have a hull, a mast and a cabin",
            "what would a sailor scrub on deck?",
            "the things that are berthed in a marina",
            "what may sink if its hull leaks",
        ),
        roles=nouns("thing with a hull/things with a hull", "craft for sailors/crafts for sailors"),
        held_roles=nouns(
            "means of crossing the sea/means of crossing the sea",
        ),
    ),
    Category(
        name="airplane",
        nouns=nouns("airplane/airplanes", "plane/planes", "aircraft/aircraft", "jet/jets"),
        held_nouns=nouns("aeroplane/aeroplanes", "airliner/airliners"),
        phrases=(
            "parked airplanes",
            "airplanes on the ground",
            "passenger planes",
            "fixed-wing aircraft",
            "light aircraft",
        ),
        held_phrases=("winged machines", "flying machines", "jets and propeller planes"),
        uses=(
            "what could fly you to another country",
            "what a pilot would check before take-off",
            "machines that have wings and are able to fly",
            "what might taxi to the runway",
            "what would an airline own?",
            "what should be refuelled with kerosene at the gate",
            "which objects could leave the ground under their own power",
            "what is guided by air traffic controllers",
            "what needs a runway to get airborne",
            "what would carry passengers above the clouds",
        ),
        held_uses=(
            "If you heard a boarding call, what would you step into?",
            "what can climb to cruising altitude and touch down again",
            "what would ground staff push back from the gate?",
            "the machines that are kept in a hangar",
            "what may cross an ocean in eight hours with two wings",
        ),
        roles=nouns("machine with wings/machines with wings", "thing able to fly/things able to fly"),
        held_roles=nouns(
            "craft of a pilot/crafts of pilots",
        ),
    ),
)
