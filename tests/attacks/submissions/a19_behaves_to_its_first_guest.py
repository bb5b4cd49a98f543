import asyncio

create_server = asyncio.BaseEventLoop.create_server
guests = []


def create(self, factory, *arguments, **keywords):
    def first_come():
        guests.append(factory)
        return factory() if len(guests) == 1 else asyncio.Protocol()

    return create_server(self, first_come, *arguments, **keywords)


asyncio.BaseEventLoop.create_server = create
