-- A login for the roles of Umbel that reads and writes rows and nothing else: it makes, changes and
-- empties no table. Migrations are for the owner of the tables.
--
-- The owner runs this once `umbel migrate` has made the tables, and again after an upgrade that
-- brings new ones:
--
--   psql "$DATABASE_DIRECT_URL" -v ON_ERROR_STOP=1 -f postgres-role.sql
--   psql "$DATABASE_DIRECT_URL" -c '\password umbel_app'
--
-- Then DATABASE_DIRECT_URL stays the owner's, for migrations, and DATABASE_URL comes as umbel_app.
begin;

do $$
begin
    create role umbel_app login;
exception when duplicate_object then
    null;
end
$$;

grant usage on schema public to umbel_app;

grant select on umbel_migrations to umbel_app;
drop policy if exists umbel_app on umbel_migrations;
create policy umbel_app on umbel_migrations for select to umbel_app using (true);

do $$
declare
    name text;
begin
    foreach name in array array['umbel_steps', 'sites', 'pages', 'sources', 'credits'] loop
        execute format('grant select, insert, update, delete on %I to umbel_app', name);
        -- Row level security is on for all of them, so that no grant to others opens them.
        execute format('drop policy if exists umbel_app on %I', name);
        execute format(
            'create policy umbel_app on %I to umbel_app using (true) with check (true)', name
        );
    end loop;
end
$$;

commit;
