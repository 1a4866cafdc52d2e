from tests.context.conftest import home as home
